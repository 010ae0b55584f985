//! One start, from step to step, and where the time of all of them went.

use super::blocks::{Block, Plot, Table};
use super::content::times_heading;
use super::numbers::{ms_interval, or_none, percent};
use crate::result::{Document, Room, Waterfall};
use crate::stats;

/// A step with its share of the time: what lies between the step before it and its being reached.
#[derive(Debug, Clone, PartialEq)]
pub struct Span<'a> {
    /// The step's name.
    pub name: &'a str,
    /// Whose it was.
    pub room: Room,
    /// When it began, ms.
    pub from: f64,
    /// When it was reached, ms.
    pub to: f64,
}

/// All of a start's time, in order. What follows the last step until the command's end belongs to the ending.
pub fn spans(of: &Waterfall) -> Vec<Span<'_>> {
    let mut from = 0.0;
    let mut spans = Vec::with_capacity(of.steps.len() + 1);
    for step in &of.steps {
        // Clocks of two processes, or a damaged file: time does not run backwards in a report.
        let to = step.at_ms.max(from);
        spans.push(Span { name: &step.name, room: step.room, from, to });
        from = to;
    }
    if of.total_ms > from {
        spans.push(Span { name: "command line ended", room: Room::End, from, to: of.total_ms });
    }
    spans
}

/// The run whose total is the median, or of an even number the faster of the two in the middle.
pub fn median_run(runs: &[Waterfall]) -> Option<&Waterfall> {
    let mut sorted: Vec<&Waterfall> = runs.iter().collect();
    sorted.sort_by(|a, b| a.total_ms.total_cmp(&b.total_ms));
    sorted.get(sorted.len().saturating_sub(1) / 2).copied()
}

/// The time spent in a room, of each run, ms.
pub fn room_times(runs: &[Waterfall], room: Room) -> Vec<f64> {
    let time = |run| spans(run).iter().filter(|s| s.room == room).map(|s| s.to - s.from).sum();
    runs.iter().map(time).collect()
}

/// Every room in the order of a start.
pub const ROOMS: [(Room, &str); 8] = [
    (Room::Cli, "command line"),
    (Room::Daemon, "daemon"),
    (Room::Launcher, "launcher"),
    (Room::Vmm, "VMM"),
    (Room::Kernel, "guest kernel"),
    (Room::Agent, "agent"),
    (Room::Container, "container"),
    (Room::End, "ending"),
];

/// A room for people.
pub fn room_name(room: Room) -> &'static str {
    ROOMS.iter().find(|(of, _)| *of == room).map_or("", |(_, name)| name)
}

pub fn blocks(document: &Document) -> Vec<Block> {
    let Some(run) = median_run(&document.boot) else {
        return Vec::new();
    };
    let totals: Vec<f64> = document.boot.iter().map(|run| run.total_ms).collect();
    let total = stats::quantile_interval(&totals, 0.5, document.seed);
    let interval = |of| or_none(of, |of| ms_interval(of, totals.len()));
    let mut rooms = Table::new(&["<room", "median ms [95 %]", "share"]);
    for (room, name) in ROOMS {
        let times = room_times(&document.boot, room);
        if times.iter().any(|time| *time > 0.0) {
            let median = stats::quantile_interval(&times, 0.5, document.seed);
            let share = or_none(median.zip(total), |(part, whole)| percent(part.value, whole.value));
            rooms.row([name.to_owned(), interval(median), share]);
        }
    }
    rooms.row(["whole command".to_owned(), interval(total), "100 %".to_owned()]);
    // The same digits for all, so that they can be added up by eye.
    let fine = |ms: f64| format!("{ms:.2}");
    let mut steps = Table::new(&["<step", "<room", "at ms", "took ms"]);
    for span in spans(run) {
        steps.row([
            span.name.to_owned(),
            room_name(span.room).to_owned(),
            fine(span.to),
            fine(span.to - span.from),
        ]);
    }
    let mut blocks = vec![
        times_heading(document, 2, "Boot, by rooms"),
        Block::Text(format!("Starts looked at: {}.", document.boot.len())),
        Block::Table(rooms),
        times_heading(document, 2, "Boot, the steps of the median start"),
        Block::Plot(Plot::Waterfall),
    ];
    // A run that ended before its first step has only a total.
    if !steps.rows.is_empty() {
        blocks.push(Block::Table(steps));
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::Step;
    use crate::sample;

    fn run(total_ms: f64, at: &[f64]) -> Waterfall {
        let step = |at_ms: &f64| Step { name: "step".into(), room: Room::Vmm, at_ms: *at_ms };
        Waterfall { total_ms, request_ms: 0.0, steps: at.iter().map(step).collect() }
    }

    #[test]
    fn spans_cover_the_whole_start_without_running_backwards() {
        let disordered = run(10.0, &[2.0, 1.0, 5.0]);
        let found: Vec<(f64, f64)> = spans(&disordered).iter().map(|s| (s.from, s.to)).collect();
        assert_eq!(found, [(0.0, 2.0), (2.0, 2.0), (2.0, 5.0), (5.0, 10.0)]);
        assert_eq!(spans(&run(0.0, &[])), []);
    }

    #[test]
    fn rooms_add_up_to_the_whole() {
        for run in sample::document().boot {
            let sum: f64 =
                ROOMS.iter().flat_map(|(room, _)| room_times(std::slice::from_ref(&run), *room)).sum();
            assert!((sum - run.total_ms).abs() < 1e-6);
        }
    }

    #[test]
    fn the_median_run_is_one_of_the_runs() {
        let runs = [run(3.0, &[]), run(1.0, &[]), run(2.0, &[]), run(9.0, &[])];
        assert_eq!(median_run(&runs), Some(&runs[2]));
        assert_eq!(median_run(&runs[..1]), Some(&runs[0]));
        assert_eq!(median_run(&[]), None);
    }
}
