//! Where Vial loses: every figure in which a rival is better, said plainly, and said too when there is none.

use super::blocks::Block;
use super::content::times_heading;
use super::density::{PER_POD, per_pod};
use super::figures::{BASE, Group, Starts, is_rival};
use super::numbers::{mib, p, times};
use super::startup::name;
use crate::result::Document;
use crate::stats::Verdict;

pub fn blocks(document: &Document, groups: &[Group<'_>]) -> Vec<Block> {
    let mut lost: Vec<String> = Vec::new();
    let (mut compared, mut too_few) = (0, 0);
    for group in groups {
        for starts in group.starts.iter().filter(|s| is_rival(document, &s.of.contender)) {
            match starts.verdict {
                None => continue,
                Some((Verdict::TooFew, _)) => too_few += 1,
                Some(_) => compared += 1,
            }
            lost.extend(slower(group, starts));
        }
        lost.extend(fails_alone(document, group));
    }
    let (density, figures) = heavier(document);
    lost.extend(density);
    if document.startup.is_empty() && document.density.is_empty() {
        return Vec::new();
    }
    let mut said = match (lost.is_empty(), compared + figures) {
        (_, 0) if lost.is_empty() => vec![Block::Text(
            "Nothing could be compared: there is no rival with enough runs beside vial.".to_owned(),
        )],
        (true, all) => vec![Block::Text(format!(
            "Nowhere in this measurement: in none of {all} comparisons was a rival better beyond chance."
        ))],
        (false, _) => vec![Block::List(lost)],
    };
    if too_few > 0 {
        said.push(Block::Text(format!("In {too_few} comparisons the runs were too few to tell.")));
    }
    let mut blocks = vec![times_heading(document, 2, "Where Vial loses")];
    blocks.append(&mut said);
    blocks
}

fn slower(group: &Group<'_>, starts: &Starts<'_>) -> Option<String> {
    let Some((Verdict::Less, chance)) = starts.verdict else {
        return None;
    };
    let ratio = starts.ratio.filter(|r| r.value > 0.0)?;
    let chance = chance.map(|chance| format!(" ({})", p(chance))).unwrap_or_default();
    let (group, rival) = (name(group), &starts.of.contender);
    // Ranks may lean to one side and medians to the other.
    Some(if ratio.value < 1.0 {
        format!("Start {group}: {BASE} takes {} the time of {rival}{chance}.", times(1.0 / ratio.value))
    } else {
        format!("Start {group}: {rival} is faster in most starts{chance}, though not in the median.")
    })
}

/// Failures of Vial where some rival had none.
fn fails_alone(document: &Document, group: &Group<'_>) -> Option<String> {
    let own = group.starts.iter().find(|s| s.of.contender == BASE)?;
    let failed = own.of.failures.len();
    let whole = |s: &&Starts<'_>| {
        is_rival(document, &s.of.contender) && s.of.failures.is_empty() && !s.of.samples_ms.is_empty()
    };
    let rival = group.starts.iter().find(whole)?;
    (failed > 0).then(|| {
        format!(
            "Start {}: {BASE} failed {failed} of {} times, {} never.",
            name(group),
            failed + own.of.samples_ms.len(),
            rival.of.contender
        )
    })
}

/// Sentences, and how many figures were compared.
fn heavier(document: &Document) -> (Vec<String>, usize) {
    let mut said = Vec::new();
    let mut compared = 0;
    let Some(own) = document.density.iter().find(|of| of.contender == BASE) else {
        return (said, compared);
    };
    for rival in document.density.iter().filter(|of| is_rival(document, &of.contender)) {
        for (what, figure) in PER_POD.iter().filter(|(what, _)| *what != "shared") {
            let (Some(ours), Some(theirs)) = (per_pod(own, *figure), per_pod(rival, *figure)) else {
                continue;
            };
            compared += 1;
            if theirs < ours {
                said.push(format!(
                    "Density, {what} per pod: {} MiB of {BASE} against {} MiB of {} (one measurement, no test).",
                    mib(ours), mib(theirs), rival.contender
                ));
            }
        }
        if let (Some(ours), Some(theirs)) = (own.cpu_percent_per_pod, rival.cpu_percent_per_pod) {
            compared += 1;
            if theirs < ours {
                said.push(format!(
                    "Density, CPU at rest per pod: {ours:.2} % of {BASE} against {theirs:.2} % of {} (one measurement, no test).",
                    rival.contender
                ));
            }
        }
    }
    (said, compared)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::figures::groups;
    use crate::result::Failure;
    use crate::sample;

    fn said(document: &Document) -> String {
        format!("{:?}", blocks(document, &groups(document)))
    }

    #[test]
    fn every_lost_comparison_is_named_and_no_won_one() {
        let text = said(&sample::document());
        assert!(text.contains("Start to the exit of true: vial takes"), "{text}");
        assert!(
            text.contains("the time of crun (p ≤ 0.0001)") && text.contains("the time of runc"),
            "{text}"
        );
        assert!(!text.contains("podman (p") && !text.contains("qemu"), "{text}");
        assert!(text.contains("Density, PSS per pod: 22.4 MiB of vial against 1.41 MiB of runc"), "{text}");
    }

    #[test]
    fn losing_nowhere_is_said_and_so_is_that_nothing_could_be_compared() {
        let mut document = sample::document();
        document.density.clear();
        document.startup.retain(|s| s.contender == BASE || s.contender == "podman");
        let text = said(&document);
        assert!(text.contains("Nowhere in this measurement: in none of 4 comparisons"), "{text}");
        document.startup.retain(|s| s.contender == BASE);
        assert!(said(&document).contains("Nothing could be compared"));
        document.startup.clear();
        assert!(blocks(&document, &[]).is_empty());
    }

    #[test]
    fn failing_alone_is_losing_and_few_runs_are_not_winning() {
        let mut document = sample::document();
        document.density.clear();
        document.startup.retain(|s| s.contender == BASE || s.contender == "qemu-microvm");
        document.startup[0].failures.push(Failure { run: 0, reason: "hung".into() });
        document.startup.iter_mut().for_each(|s| s.samples_ms.truncate(3));
        let text = said(&document);
        assert!(text.contains("vial failed 1 of 4 times, qemu-microvm never"), "{text}");
        assert!(text.contains("too few to tell") && !text.contains("Nowhere"), "{text}");
    }
}
