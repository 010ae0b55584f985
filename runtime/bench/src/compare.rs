//! Two documents beside each other: what changed from A to B beyond noise, and whether the programs or the machine did it.
//!
//! Every test made is counted, and p is corrected for so many of them (Holm), since of a hundred tests of nothing one is below 0.01 by chance. Densities are
//! measured once, so they are shown without a test; counts hardly vary, so theirs is whether the ranges lie apart.

mod setting;
mod show;

use crate::report::boot::{ROOMS, room_times};
use crate::report::density::{PER_POD, per_pod};
use crate::report::startup::{COUNTS, counts};
use crate::result::{Caution, Document, MachineKind, Scenario, Startup, Waterfall};
use crate::rounds::independent;
use crate::stats::{self, Estimate, LEVEL, Verdict};

pub use show::{blocks, text};

/// What two documents say of each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Why a difference may not be the programs' alone, and what forbids using A or B at all.
    pub cautions: Vec<Caution>,
    /// A or B comes from an emulated host.
    pub emulated: bool,
    /// What was tested, in the order of A.
    pub changes: Vec<Change>,
    /// Figures of one measurement each, for which there is no test.
    pub untested: Vec<Untested>,
    /// Counts of both, those that changed first.
    pub counts: Vec<Counted>,
    /// What only A has.
    pub only_a: Vec<String>,
    /// What only B has.
    pub only_b: Vec<String>,
}

/// Samples of both, and what can be said of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Whose; steps of a boot are Vial's.
    pub contender: String,
    /// What was measured.
    pub what: String,
    /// Median in A, ms.
    pub a: f64,
    /// Median in B, ms.
    pub b: f64,
    /// Samples of the side that has fewer.
    pub samples: usize,
    /// B's to A's.
    pub ratio: Option<Estimate>,
    /// Corrected for the number of tests; None with too few samples.
    pub p: Option<f64>,
    /// Of B against A, by the corrected p.
    pub verdict: Verdict,
}

/// A figure of both.
#[derive(Debug, Clone, PartialEq)]
pub struct Untested {
    /// Whose.
    pub contender: String,
    /// What it is, with its unit.
    pub what: String,
    /// In A.
    pub a: f64,
    /// In B.
    pub b: f64,
}

/// A count of both.
#[derive(Debug, Clone, PartialEq)]
pub struct Counted {
    /// Whose.
    pub contender: String,
    /// What was counted, in which scenario.
    pub what: String,
    /// Median in A.
    pub a: f64,
    /// Median in B.
    pub b: f64,
    /// Whether all of A lie on one side of all of B.
    pub apart: bool,
}

/// Compares B with A.
pub fn compare(a: &Document, b: &Document) -> Comparison {
    let pairs = pairs(a, b);
    let mut changes: Vec<Change> = pairs
        .iter()
        .filter_map(|(x, y)| change(&x.contender, &name(x), &independent(x), &independent(y), a.seed))
        .collect();
    changes.extend(boot(&a.boot, &b.boot, a.seed));
    correct(&mut changes);
    let mut counts: Vec<Counted> = pairs.iter().flat_map(|(x, y)| counted(x, y)).collect();
    counts.sort_by_key(|count| !count.apart);
    let mut cautions = setting::differences(a, b);
    cautions.extend(setting::drift(a, b, &changes));
    cautions.sort_by_key(|caution| std::cmp::Reverse(caution.weight));
    let emulated = [a, b].iter().any(|of| of.machine.kind == MachineKind::Emulated);
    Comparison {
        cautions,
        emulated,
        changes,
        untested: density(a, b),
        counts,
        only_a: only(a, b),
        only_b: only(b, a),
    }
}

fn pairs<'a>(a: &'a Document, b: &'a Document) -> Vec<(&'a Startup, &'a Startup)> {
    let pair = |x: &'a Startup| Some((x, b.startup(&x.contender, x.scenario, x.concurrency)?));
    a.startup.iter().filter_map(pair).collect()
}

fn name(of: &Startup) -> String {
    named(of.scenario, of.concurrency)
}

fn named(scenario: Scenario, concurrency: u32) -> String {
    let at_once = if concurrency == 1 { String::new() } else { format!(", {concurrency} at once") };
    format!("{}{at_once}", scenario.name())
}

fn change(contender: &str, what: &str, a: &[f64], b: &[f64], seed: u64) -> Option<Change> {
    let (verdict, p) = stats::compare(b, a, seed);
    Some(Change {
        contender: contender.to_owned(),
        what: what.to_owned(),
        a: stats::median(a)?,
        b: stats::median(b)?,
        samples: a.len().min(b.len()),
        ratio: stats::ratio_interval(b, a, seed),
        p,
        verdict,
    })
}

fn boot(a: &[Waterfall], b: &[Waterfall], seed: u64) -> Vec<Change> {
    let total = |runs: &[Waterfall]| runs.iter().map(|run| run.total_ms).collect::<Vec<_>>();
    let contender = crate::report::figures::BASE;
    let mut changes: Vec<Change> =
        change(contender, "boot, whole command", &total(a), &total(b), seed).into_iter().collect();
    for (room, name) in ROOMS {
        let (x, y) = (room_times(a, room), room_times(b, room));
        if x.iter().chain(&y).any(|time| *time > 0.0) {
            changes.extend(change(contender, &format!("boot, {name}"), &x, &y, seed));
        }
    }
    changes
}

/// Holm's correction: the smallest p times the number of tests, the next times one fewer, and so on, none below the one before it. The
/// verdicts follow.
fn correct(changes: &mut [Change]) {
    let mut tested: Vec<&mut Change> = changes.iter_mut().filter(|change| change.p.is_some()).collect();
    tested.sort_by(|x, y| x.p.unwrap_or(1.0).total_cmp(&y.p.unwrap_or(1.0)));
    let count = tested.len();
    let mut least: f64 = 0.0;
    for (at, change) in tested.into_iter().enumerate() {
        let p = change.p.unwrap_or(1.0);
        least = least.max((p * (count - at) as f64).min(1.0));
        change.p = Some(least);
        if least >= LEVEL {
            change.verdict = Verdict::Equal;
        }
    }
}

fn counted(x: &Startup, y: &Startup) -> Vec<Counted> {
    let one = |(what, figure)| {
        let (a, b): (Vec<f64>, Vec<f64>) = (counts(x, figure), counts(y, figure));
        let extent = |of: &[f64]| Some((stats::quantile(of, 0.0)?, stats::quantile(of, 1.0)?));
        let ((a_low, a_high), (b_low, b_high)) = (extent(&a)?, extent(&b)?);
        Some(Counted {
            contender: x.contender.clone(),
            what: format!("{what}, {}", name(x)),
            a: stats::median(&a)?,
            b: stats::median(&b)?,
            apart: a_high < b_low || b_high < a_low,
        })
    };
    COUNTS.into_iter().filter_map(one).collect()
}

fn density(a: &Document, b: &Document) -> Vec<Untested> {
    let mut figures = Vec::new();
    for x in &a.density {
        let Some(y) = b.density.iter().find(|y| y.contender == x.contender) else { continue };
        let mut push = |what: String, a: Option<f64>, b: Option<f64>| {
            if let (Some(a), Some(b)) = (a, b) {
                figures.push(Untested { contender: x.contender.clone(), what, a, b });
            }
        };
        for (what, figure) in PER_POD {
            let mib = |of| Some(per_pod(of, figure)? / 1024.0);
            push(format!("{what} per pod, MiB"), mib(x), mib(y));
        }
        push("CPU at rest per pod, %".to_owned(), x.cpu_percent_per_pod, y.cpu_percent_per_pod);
    }
    figures
}

/// What `a` measured and `b` did not.
fn only(a: &Document, b: &Document) -> Vec<String> {
    let starts = a.startup.iter().filter(|x| b.startup(&x.contender, x.scenario, x.concurrency).is_none());
    let mut only: Vec<String> = starts.map(|x| format!("{}, {}", x.contender, name(x))).collect();
    if !a.boot.is_empty() && b.boot.is_empty() {
        only.push("boot".to_owned());
    }
    let density = a.density.iter().filter(|x| !b.density.iter().any(|y| y.contender == x.contender));
    only.extend(density.map(|x| format!("{}, density", x.contender)));
    only
}

#[cfg(test)]
mod tests;
