//! What an idle pod costs: from point to point, which leaves out what the first one brings for all, and as a share of the whole.

use super::blocks::{Block, Plot, Table};
use super::content::times_heading;
use super::numbers::{NONE, mib, or_none};
use crate::result::{Density, DensityPoint, Document};

/// A size of so many pods, KiB.
pub type Figure = fn(&DensityPoint) -> f64;

/// Proportional share.
pub const PSS: Figure = |p| p.pss_kib as f64;
const PRIVATE: Figure = |p| p.private_kib as f64;
const SHARED: Figure = |p| p.shared_kib as f64;
const FALLEN: Figure = |p| p.available_fallen_kib as f64;

/// The figures that are told per pod, by name.
pub const PER_POD: [(&str, Figure); 4] =
    [("PSS", PSS), ("private", PRIVATE), ("shared", SHARED), ("MemAvailable fell", FALLEN)];

/// What one pod more costs, between the points with the fewest and the most pods; with one point, its share.
pub fn per_pod(of: &Density, figure: Figure) -> Option<f64> {
    let first = of.points.iter().min_by_key(|p| p.pods)?;
    let last = of.points.iter().max_by_key(|p| p.pods)?;
    if first.pods == last.pods {
        return share(of, figure);
    }
    Some((figure(last) - figure(first)) / f64::from(last.pods - first.pods))
}

/// The whole of the point with the most pods, divided by them.
fn share(of: &Density, figure: Figure) -> Option<f64> {
    let last = of.points.iter().max_by_key(|p| p.pods).filter(|p| p.pods > 0)?;
    Some(figure(last) / f64::from(last.pods))
}

pub fn blocks(document: &Document) -> Vec<Block> {
    if document.density.is_empty() {
        return Vec::new();
    }
    let mut memory = Table::of_contenders(&[
        "<contender",
        "pods",
        "PSS",
        "private",
        "shared",
        "MemAvailable fell",
        "PSS / n",
    ]);
    let mut others = Table::of_contenders(&[
        "<contender",
        "shared file pages / n",
        "page cache grew",
        "processes / n",
        "CPU at rest",
    ]);
    for of in &document.density {
        let last = of.points.iter().max_by_key(|p| p.pods);
        let pods = or_none(last, |last| last.pods.to_string());
        let figures = PER_POD.map(|(_, figure)| or_none(per_pod(of, figure), mib));
        memory.row(
            [of.contender.clone(), pods].into_iter().chain(figures).chain([or_none(share(of, PSS), mib)]),
        );
        others.row([
            of.contender.clone(),
            or_none(share(of, |p| p.shared_file_kib as f64), mib),
            or_none(last, |last| mib(last.cached_grown_kib as f64)),
            or_none(share(of, |p| f64::from(p.processes)), |n| format!("{n:.1}")),
            of.cpu_percent_per_pod.map_or_else(|| NONE.to_owned(), |cpu| format!("{cpu:.2} %")),
        ]);
    }
    let ended = document.density.iter().map(|of| {
        let rest = if of.cpu_percent_per_pod.is_some() {
            format!(" CPU at rest over {:.0} s.", of.rest_s)
        } else {
            String::new()
        };
        format!("{} ended with: {}.{rest}", of.contender, of.ended)
    });
    vec![
        times_heading(document, 2, "Density: memory of one idle pod more, MiB"),
        Block::Table(memory),
        Block::Text(
            "Between the fewest and the most pods, which leaves out what the first pod brings for all; PSS / n is the whole of the most pods divided by them. Private: mapped by nobody else. \
             Shared: mapped by others too, the whole of it for each."
                .to_owned(),
        ),
        Block::Plot(Plot::Density),
        times_heading(document, 3, "Density: page cache (MiB), processes, and share of one processor per pod"),
        Block::Table(others),
        Block::List(ended.collect()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn density(points: &[(u32, u64)]) -> Density {
        let point = |&(pods, pss_kib): &(u32, u64)| DensityPoint { pods, pss_kib, ..DensityPoint::default() };
        Density {
            contender: "vial".into(),
            points: points.iter().map(point).collect(),
            cpu_percent_per_pod: None,
            rest_s: 0.0,
            ended: String::new(),
        }
    }

    #[test]
    fn what_the_first_pod_brings_for_all_is_not_the_price_of_a_pod() {
        assert_eq!(per_pod(&density(&[(1, 1100), (11, 2100), (5, 1490)]), PSS), Some(100.0));
        assert_eq!(share(&density(&[(1, 1100), (10, 2000)]), PSS), Some(200.0));
        assert_eq!(per_pod(&density(&[(4, 400)]), PSS), Some(100.0));
        assert_eq!(per_pod(&density(&[(0, 400)]), PSS), None);
        assert_eq!(per_pod(&density(&[]), PSS), None);
    }
}
