//! Memory against the number of pods: the slope is the price of a pod, the height of the beginning that of the first.

use super::scale::Scale;
use super::{Drawn, axes, extent, ink, svg};
use crate::report::density::PSS;
use crate::result::{Density, Document};
use plotters::prelude::*;

/// The proportional share of all pods of each contender.
pub fn density(document: &Document, title: &str) -> Option<String> {
    let (_, pods) = extent(document.density.iter().flat_map(curve).map(|(pods, _)| pods))?;
    let (_, most) = extent(document.density.iter().flat_map(curve).map(|(_, mib)| mib))?;
    svg(title, 640, |canvas| -> Drawn {
        let (x, y) = (Scale::new(0.0, pods, 7, false), Scale::new(0.0, most, 6, false));
        let mut chart = axes(canvas, (150, x, "pods"), (y, "PSS of all pods, MiB"), None)?;
        for of in &document.density {
            let colour = ink(document, &of.contender).rgb();
            chart.draw_series(LineSeries::new(curve(of), colour.stroke_width(5)))?;
            chart.draw_series(curve(of).into_iter().map(|at| Circle::new(at, 9, colour.filled())))?;
        }
        Ok(())
    })
}

fn curve(of: &Density) -> Vec<(f64, f64)> {
    let mut curve: Vec<(f64, f64)> = of.points.iter().map(|p| (f64::from(p.pods), PSS(p) / 1024.0)).collect();
    curve.sort_by(|a, b| a.0.total_cmp(&b.0));
    curve
}
