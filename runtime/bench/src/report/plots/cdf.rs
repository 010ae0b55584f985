//! Distribution functions: which share of the starts was through after how long. The steeper, the steadier; the more to the left, the faster.

use super::scale::Scale;
use super::{Drawn, axes, drawn, extent, svg};
use crate::report::figures::Group;
use crate::result::Document;
use plotters::prelude::*;

/// More steps than this can't be told apart on the canvas.
const STEPS: usize = 400;

/// Distribution functions of all contenders of a group.
pub fn cdf(document: &Document, group: &Group<'_>, title: &str) -> Option<String> {
    let all = drawn(document, group);
    let (low, high) = extent(all.iter().flat_map(|(_, samples, _)| samples.iter().copied()))?;
    svg(title, 640, |canvas| -> Drawn {
        let x = Scale::new(low, high, 7, true);
        let name = super::times_axis(&x);
        let mut chart = axes(canvas, (130, x, name), (Scale::exact(0.0, 100.0, 5), "% of starts"), None)?;
        for (_, samples, ink) in all {
            chart.draw_series(LineSeries::new(steps(samples), ink.rgb().stroke_width(5)))?;
        }
        Ok(())
    })
}

/// The corners of a distribution function in percent.
fn steps(samples: &[f64]) -> Vec<(f64, f64)> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let every = sorted.len().div_ceil(STEPS).max(1);
    let mut corners = Vec::new();
    let mut below = 0.0;
    for (at, value) in sorted.iter().enumerate() {
        if at % every == every - 1 || at + 1 == sorted.len() {
            let upto = 100.0 * (at + 1) as f64 / sorted.len() as f64;
            corners.extend([(*value, below), (*value, upto)]);
            below = upto;
        }
    }
    corners
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sample_is_a_step_and_many_are_few() {
        assert_eq!(steps(&[2.0, 1.0]), [(1.0, 0.0), (1.0, 50.0), (2.0, 50.0), (2.0, 100.0)]);
        let many: Vec<f64> = (0..10_001).map(f64::from).collect();
        let corners = steps(&many);
        assert!(corners.len() <= 2 * STEPS + 2);
        assert_eq!(corners.last(), Some(&(10_000.0, 100.0)));
    }
}
