//! Starts: a table of times for each group, what can be said of each rival, and what a start costs besides time.

use super::blocks::{Block, Plot, Table};
use super::content::times_heading;
use super::figures::{BASE, Group, Starts};
use super::numbers::{count, ms, ms_interval, or_none, p, times_interval};
use crate::result::{ContenderState, Counts, Document, Startup};
use crate::stats::{FEWEST, Verdict, median};

pub fn blocks(document: &Document, groups: &[Group<'_>]) -> Vec<Block> {
    groups.iter().flat_map(|group| group_blocks(document, group)).collect()
}

/// What a group is called in headings and sentences.
pub fn name(group: &Group<'_>) -> String {
    let at_once =
        if group.concurrency == 1 { String::new() } else { format!(", {} at once", group.concurrency) };
    format!("{}{at_once}", group.scenario.title().replace('`', ""))
}

fn group_blocks(document: &Document, group: &Group<'_>) -> Vec<Block> {
    let mut blocks =
        vec![times_heading(document, 2, &format!("Start {}", name(group))), Block::Table(times_table(group))];
    let said: Vec<String> =
        group.starts.iter().filter_map(verdict).chain(group.starts.iter().filter_map(failures)).collect();
    if !said.is_empty() {
        blocks.push(Block::List(said));
    }
    blocks.push(Block::Plot(Plot::Startup(group.scenario, group.concurrency)));
    if let Some(table) = counts_table(group) {
        blocks.push(Block::Heading(3, format!("Counted in one start {} (medians)", name(group))));
        blocks.push(Block::Table(table));
    }
    blocks
}

fn times_table(group: &Group<'_>) -> Table {
    let rounds = group.starts.iter().any(|s| s.round.is_some());
    let mut columns = vec!["<contender", "n", "median ms [95 %]", "p90", "p99", "min", "max"];
    columns.extend(rounds.then_some("all through"));
    columns.push("to vial [95 %]");
    let mut table = Table::of_contenders(&columns);
    for starts in &group.starts {
        let mut row = vec![
            starts.of.contender.clone(),
            starts.of.samples_ms.len().to_string(),
            or_none(starts.median, |median| ms_interval(median, starts.samples)),
            or_none(starts.p90, ms),
            or_none(starts.p99, ms),
            or_none(starts.min, ms),
            or_none(starts.max, ms),
        ];
        if rounds {
            row.push(or_none(starts.round, ms));
        }
        row.push(if starts.of.contender == BASE {
            "1".to_owned()
        } else {
            or_none(starts.ratio, |ratio| times_interval(ratio, starts.compared))
        });
        table.row(row);
    }
    table
}

fn verdict(starts: &Starts<'_>) -> Option<String> {
    let (verdict, chance) = starts.verdict?;
    let name = &starts.of.contender;
    let chance = chance.map(|chance| format!(", {}", p(chance))).unwrap_or_default();
    Some(match verdict {
        Verdict::Less => format!("{name} is faster than {BASE}{chance}."),
        Verdict::More => format!("{name} is slower than {BASE}{chance}."),
        Verdict::Equal => format!("{name} and {BASE}: no difference beyond chance{chance}."),
        Verdict::TooFew => {
            format!("{name} and {BASE}: too few runs to tell ({FEWEST} of each are the least).")
        }
    })
}

fn failures(starts: &Starts<'_>) -> Option<String> {
    let Startup { contender, failures, samples_ms, .. } = starts.of;
    let first = failures.first()?;
    let all = failures.len() + samples_ms.len();
    Some(format!(
        "{contender} failed {} of {all} times, first in run {}: {}",
        failures.len(),
        first.run,
        first.reason
    ))
}

fn counts_table(group: &Group<'_>) -> Option<Table> {
    let counted: Vec<&Startup> =
        group.starts.iter().map(|s| s.of).filter(|of| !of.counts.is_empty()).collect();
    if counted.is_empty() {
        return None;
    }
    let mut columns = vec!["<contender", "n"];
    columns.extend(COUNTS.map(|(name, _)| name));
    let mut table = Table::of_contenders(&columns);
    for of in counted {
        let figures = COUNTS.map(|(_, figure)| or_none(median(&counts(of, figure)), count));
        table.row([of.contender.clone(), of.counts.len().to_string()].into_iter().chain(figures));
    }
    Some(table)
}

/// One of the counts.
pub type Figure = fn(&Counts) -> Option<u64>;

/// What is counted, by name.
pub const COUNTS: [(&str, Figure); 6] = [
    ("tasks", |c| c.tasks),
    ("execs", |c| c.execs),
    ("system calls", |c| c.syscalls),
    ("VM exits", |c| c.vm_exits),
    ("page faults", |c| c.page_faults),
    ("KiB read", |c| c.read_kib),
];

/// One figure of all counted starts.
pub fn counts(of: &Startup, figure: Figure) -> Vec<f64> {
    of.counts.iter().filter_map(figure).map(|count| count as f64).collect()
}

/// Who could not be measured, and why; and what is not equal with those who could.
pub fn unmeasured(document: &Document) -> Vec<Block> {
    let mut blocks = Vec::new();
    let missing: Vec<String> = document
        .contenders
        .iter()
        .filter_map(|c| match &c.state {
            ContenderState::Measured => None,
            ContenderState::Missing { looked_for } => {
                Some(format!("{}: missing, there is no {looked_for} on the PATH.", c.name))
            }
            ContenderState::Unusable { reason } => Some(format!("{}: unusable here: {reason}", c.name)),
        })
        .collect();
    if !missing.is_empty() {
        blocks.extend([Block::Heading(2, "Not measured".to_owned()), Block::List(missing)]);
    }
    let measured = document.contenders.iter().filter(|c| c.state == ContenderState::Measured);
    let described: Vec<String> = measured
        .map(|c| {
            let version = c.version.as_ref().map(|version| format!(" ({version})")).unwrap_or_default();
            let notes = if c.notes.is_empty() { String::new() } else { format!("; {}", c.notes.join("; ")) };
            format!("{}{version}: {}{notes}.", c.name, c.title)
        })
        .collect();
    if !described.is_empty() {
        blocks.extend([Block::Heading(2, "Contenders".to_owned()), Block::List(described)]);
    }
    blocks
}
