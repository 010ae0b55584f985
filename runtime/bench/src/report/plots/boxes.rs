//! Box plots with their samples: median, middle half, whiskers to the last sample within 1.5 times the box (Tukey).
//!
//! The boxes are drawn here: plotters' own have whiskers that end where no sample is, below 0 even, and quartiles that differ from the tables'.

use super::scale::Scale;
use super::{Chart, Drawn, Ink, axes, drawn, extent, short, svg};
use crate::report::figures::Group;
use crate::result::Document;
use crate::stats::quantile;
use plotters::prelude::*;

/// More dots than this are one blot.
const DOTS: usize = 250;
const ROW: u32 = 96;

/// Box plots of all contenders of a group.
pub fn boxes(document: &Document, group: &Group<'_>, title: &str) -> Option<String> {
    let all = drawn(document, group);
    let (low, high) = extent(all.iter().flat_map(|(_, samples, _)| samples.iter().copied()))?;
    let names: Vec<String> = all.iter().map(|(name, ..)| short(name, 8.9)).collect();
    let height = 120 + ROW * u32::try_from(all.len()).ok()?;
    svg(title, height, |canvas| -> Drawn {
        let x = Scale::new(low, high, 6, true);
        let name = super::times_axis(&x);
        // From the top down: the first contender stands above the others, as in the tables.
        let y = Scale::exact(all.len() as f64, 0.0, 1);
        let mut chart = axes(canvas, (310, x, name), (y, ""), Some(&names))?;
        for (row, (_, samples, ink)) in all.iter().enumerate() {
            a_box(&mut chart, row as f64 + 0.5, samples, *ink)?;
        }
        Ok(())
    })
}

fn a_box(chart: &mut Chart<'_>, middle: f64, samples: &[f64], ink: Ink) -> Drawn {
    let at = |q| quantile(samples, q);
    let (Some(q1), Some(median), Some(q3)) = (at(0.25), at(0.5), at(0.75)) else {
        return Ok(());
    };
    let reach = 1.5 * (q3 - q1);
    let within = samples.iter().copied().filter(|x| (q1 - reach..=q3 + reach).contains(x));
    let (low, high) = extent(within).unwrap_or((q1, q3));
    // The box above its dots: over each other neither can be read.
    let (colour, half) = (ink.rgb(), 0.19);
    let (dots_at, middle) = (middle + 0.24, middle - 0.16);
    let every = samples.len().div_ceil(DOTS).max(1);
    let dots = samples.iter().step_by(every).enumerate().map(|(count, x)| {
        // Spread by the golden ratio: even, and the same each time.
        let spread = (count as f64 * 0.618_033_988_75).fract() - 0.5;
        Circle::new((*x, dots_at + 0.26 * spread), 6, colour.mix(0.5).filled())
    });
    chart.draw_series(dots)?;
    let line = |from: (f64, f64), to: (f64, f64), width| {
        PathElement::new(vec![from, to], colour.stroke_width(width))
    };
    let corners = [(q1, middle - half), (q3, middle + half)];
    chart.draw_series([Rectangle::new(corners, colour.mix(0.3).filled())])?;
    chart.draw_series([
        line((q1, middle - half), (q3, middle - half), 3),
        line((q1, middle + half), (q3, middle + half), 3),
        line((q1, middle - half), (q1, middle + half), 3),
        line((q3, middle - half), (q3, middle + half), 3),
        line((median, middle - half), (median, middle + half), 7),
        line((low, middle), (q1, middle), 3),
        line((q3, middle), (high, middle), 3),
        line((low, middle - half / 2.0), (low, middle + half / 2.0), 3),
        line((high, middle - half / 2.0), (high, middle + half / 2.0), 3),
    ])?;
    Ok(())
}
