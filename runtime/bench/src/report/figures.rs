//! What is computed from the samples of starts, once for tables, sentences and plots.

use crate::result::{ContenderKind, Document, Scenario, Startup};
use crate::rounds::independent;
use crate::stats::{self, Estimate, Verdict};

/// Against whom the others are told.
pub const BASE: &str = "vial";
/// With fewer samples the ninetieth of a hundred is one of the two largest.
const FEWEST_P90: usize = 20;
/// With fewer samples the 99th of a hundred is the largest.
const FEWEST_P99: usize = 100;

/// All contenders in one scenario, so many at once.
#[derive(Debug)]
pub struct Group<'a> {
    /// What was waited for.
    pub scenario: Scenario,
    /// How many at once.
    pub concurrency: u32,
    /// In the order of the document's contenders.
    pub starts: Vec<Starts<'a>>,
}

/// One contender's starts in a group. What too few samples do not give is None.
#[derive(Debug)]
pub struct Starts<'a> {
    /// The samples.
    pub of: &'a Startup,
    /// How many samples of it are independent.
    pub samples: usize,
    /// The same, or that of the base, if it has fewer.
    pub compared: usize,
    /// Of independent samples.
    pub median: Option<Estimate>,
    /// Of all starts.
    pub p90: Option<f64>,
    /// Of all starts.
    pub p99: Option<f64>,
    /// The fastest.
    pub min: Option<f64>,
    /// The slowest.
    pub max: Option<f64>,
    /// With several at once: the median of the time until all of a round were through.
    pub round: Option<f64>,
    /// The ratio of medians to the base's.
    pub ratio: Option<Estimate>,
    /// Beside the base; none for itself, and where there is none.
    pub verdict: Option<(Verdict, Option<f64>)>,
}

/// Everything of `vial bench startup`, in the order of scenarios and numbers at once.
pub fn groups(document: &Document) -> Vec<Group<'_>> {
    let mut keys: Vec<(Scenario, u32)> =
        document.startup.iter().map(|s| (s.scenario, s.concurrency)).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter().map(|(scenario, concurrency)| group(document, scenario, concurrency)).collect()
}

fn group(document: &Document, scenario: Scenario, concurrency: u32) -> Group<'_> {
    let mut of: Vec<&Startup> =
        document.startup.iter().filter(|s| s.scenario == scenario && s.concurrency == concurrency).collect();
    of.sort_by_key(|s| place(document, &s.contender));
    let base = document.startup(BASE, scenario, concurrency);
    let starts = of.into_iter().map(|of| starts(of, base, document.seed)).collect();
    Group { scenario, concurrency, starts }
}

fn starts<'a>(of: &'a Startup, base: Option<&Startup>, seed: u64) -> Starts<'a> {
    let samples = independent(of);
    let base = base.filter(|base| base.contender != of.contender).map(independent);
    let quantile = |q, fewest| stats::quantile(&of.samples_ms, q).filter(|_| of.samples_ms.len() >= fewest);
    Starts {
        of,
        samples: samples.len(),
        compared: base.as_ref().map_or(samples.len(), |base| samples.len().min(base.len())),
        median: stats::quantile_interval(&samples, 0.5, seed),
        p90: quantile(0.9, FEWEST_P90),
        p99: quantile(0.99, FEWEST_P99),
        min: quantile(0.0, 1),
        max: quantile(1.0, 1),
        round: stats::median(&of.rounds_ms),
        ratio: base.as_ref().and_then(|base| stats::ratio_interval(&samples, base, seed)),
        verdict: base.map(|base| stats::compare(&samples, &base, seed)),
    }
}

/// Where a contender stands among the others; strangers come last.
pub fn place(document: &Document, name: &str) -> usize {
    document.contenders.iter().position(|c| c.name == name).unwrap_or(usize::MAX)
}

/// Whether it is somebody else's.
pub fn is_rival(document: &Document, name: &str) -> bool {
    name != BASE && document.contender(name).is_none_or(|c| c.kind != ContenderKind::Vial)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn everybody_is_compared_with_vial_and_vial_with_nobody() {
        let document = sample::document();
        let groups = groups(&document);
        assert_eq!(groups.len(), 4);
        let exit = &groups[0];
        let names: Vec<&str> = exit.starts.iter().map(|s| s.of.contender.as_str()).collect();
        assert_eq!(names, ["vial", "runc", "crun", "podman", "qemu-microvm"]);
        assert_eq!(exit.starts[0].verdict, None);
        let verdicts: Vec<_> = exit.starts[1..].iter().map(|s| s.verdict.unwrap().0).collect();
        assert_eq!(verdicts, [Verdict::Less, Verdict::Less, Verdict::More, Verdict::More]);
        // 120 samples give a 99th percentile, 30 a 90th only.
        assert!(exit.starts[0].p99.is_some());
        let first_byte = &groups[2];
        assert!(first_byte.starts[0].p90.is_some() && first_byte.starts[0].p99.is_none());
    }

    #[test]
    fn without_the_base_nothing_is_compared() {
        let mut document = sample::document();
        document.startup.retain(|s| s.contender != BASE);
        let groups = groups(&document);
        assert!(groups.iter().flat_map(|g| &g.starts).all(|s| s.ratio.is_none() && s.verdict.is_none()));
    }

    #[test]
    fn a_single_sample_has_a_median_and_no_verdict() {
        let mut document = sample::document();
        document.startup.iter_mut().for_each(|s| s.samples_ms.truncate(1));
        let groups = groups(&document);
        let runc = &groups[0].starts[1];
        assert_eq!(runc.median.map(|m| (m.low, m.high)), runc.min.zip(runc.max));
        assert_eq!((runc.p90, runc.verdict), (None, Some((Verdict::TooFew, None))));
    }
}
