//! One start as bars below each other, each from the step before it to its own, in the colour of who worked.

use super::scale::Scale;
use super::{Drawn, Ink, axes, short, svg, text_style};
use crate::report::boot::{ROOMS, Span, median_run, spans};
use crate::report::numbers::ms;
use crate::result::{Document, Room};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

/// More bars than this are no plot.
pub const BARS: usize = 60;
const ROW: u32 = 48;

/// The ink of a room.
pub fn room_ink(room: Room) -> Ink {
    Ink::Room(ROOMS.iter().position(|(of, _)| *of == room).unwrap_or(0))
}

/// The steps of the median start; of very many the longest.
pub fn waterfall(document: &Document, title: &str) -> Option<String> {
    let run = median_run(&document.boot).filter(|run| run.total_ms > 0.0)?;
    let shown = longest(spans(run));
    let end = shown.iter().map(|s| s.to).fold(run.total_ms, f64::max);
    let names: Vec<String> = shown.iter().map(|span| short(span.name, 13.3)).collect();
    let height = 120 + ROW * u32::try_from(shown.len()).ok()?;
    svg(title, height, |canvas| -> Drawn {
        let y = Scale::exact(shown.len() as f64, 0.0, 1);
        let mut chart = axes(
            canvas,
            (450, Scale::new(0.0, end, 6, false), "ms after the command's start"),
            (y, ""),
            Some(&names),
        )?;
        for (row, span) in shown.iter().enumerate() {
            let (top, middle, bottom) = (row as f64 + 0.14, row as f64 + 0.5, row as f64 + 0.86);
            let colour = room_ink(span.room).rgb();
            // What is shorter than the canvas can show stays a line.
            chart.draw_series([PathElement::new(
                vec![(span.from, top), (span.from, bottom)],
                colour.stroke_width(2),
            )])?;
            chart.draw_series([Rectangle::new([(span.from, top), (span.to, bottom)], colour.filled())])?;
            // Beside the bar where there is more room.
            let (at, offset, side) =
                if span.to < 0.8 * end { (span.to, 10, HPos::Left) } else { (span.from, -10, HPos::Right) };
            let text =
                Text::new(ms(span.to - span.from), (offset, 0), text_style(Ink::Text, side, VPos::Center));
            chart.draw_series([EmptyElement::at((at, middle)) + text])?;
        }
        Ok(())
    })
}

fn longest(spans: Vec<Span<'_>>) -> Vec<Span<'_>> {
    let mut lengths: Vec<f64> = spans.iter().map(|s| s.to - s.from).collect();
    lengths.sort_by(|a, b| b.total_cmp(a));
    let least = lengths.get(BARS).copied().unwrap_or(-1.0);
    spans.into_iter().filter(|s| s.to - s.from > least).collect()
}
