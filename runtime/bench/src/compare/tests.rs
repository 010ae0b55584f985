use super::*;
use crate::result::Weight;
use crate::sample;

fn scaled(by: f64, whom: impl Fn(&str) -> bool) -> Document {
    let mut document = sample::document();
    for startup in document.startup.iter_mut().filter(|s| whom(&s.contender)) {
        startup.samples_ms.iter_mut().for_each(|ms| *ms *= by);
    }
    document
}

fn said(of: &Comparison) -> String {
    of.cautions.iter().map(|c| format!("{}\n", c.text)).collect()
}

#[test]
fn a_document_does_not_differ_from_itself() {
    let same = compare(&sample::document(), &sample::document());
    assert!(same.changes.iter().all(|c| c.verdict == Verdict::Equal && c.p == Some(1.0)), "{same:?}");
    assert!(same.cautions.is_empty() && same.only_a.is_empty() && same.only_b.is_empty());
    assert!(same.counts.iter().all(|c| !c.apart));
    assert!(!same.vial_became_slower());
    assert!(text(&same).contains("0 of 27 tests"), "{}", text(&same));
}

#[test]
fn what_vial_alone_gained_is_found_and_is_vials() {
    let faster = compare(&sample::document(), &scaled(0.5, |name| name == "vial"));
    for change in &faster.changes {
        let expected = match change.contender == "vial" && !change.what.starts_with("boot") {
            // Eight rounds of each can't be told apart after the correction; their p is 1 in a few thousand times the number of tests.
            true if change.what.contains("at once") => continue,
            true => Verdict::Less,
            false => Verdict::Equal,
        };
        assert_eq!(change.verdict, expected, "{change:?}");
    }
    assert_eq!(said(&faster), "");
    let text = text(&faster);
    assert!(text.contains("0.50× [0.4") && text.contains("faster") && !text.contains("SLOWER"), "{text}");
}

#[test]
fn when_the_same_rivals_moved_too_the_machine_moved() {
    let slower = compare(&sample::document(), &scaled(1.5, |_| true));
    assert!(slower.vial_became_slower());
    let text = said(&slower);
    assert!(text.contains("runc, the same program in A and B, became slower in exit (1.50×)"), "{text}");
    assert!(text.contains("the machine moved; vial moved the same way"), "{text}");
    // Names, folders and ports are made up anew by each bench; other words are not.
    let renamed = |port: &str, image: &str| {
        let mut b = scaled(1.5, |_| true);
        for contender in &mut b.contenders {
            let words = ["run", "--name", "vial-bench-7-9", "-p", port, image].map(str::to_owned).to_vec();
            contender.commands = [("exit".to_owned(), words)].into();
        }
        b
    };
    let mut a = renamed("127.0.0.1:4000:80", "x");
    a.startup = sample::document().startup;
    assert!(said(&compare(&a, &renamed("127.0.0.1:5000:80", "x"))).contains("the machine moved"));
    let text = said(&compare(&a, &renamed("127.0.0.1:5000:80", "y")));
    assert!(!text.contains("the machine moved") && text.contains("command line"), "{text}");
    // Another version may be slower by itself.
    let mut other = scaled(1.5, |_| true);
    other.contenders.iter_mut().for_each(|c| c.version = Some("new".into()));
    let text = said(&compare(&sample::document(), &other));
    assert!(!text.contains("the machine moved") && text.contains("another version in B"), "{text}");
}

#[test]
fn another_machine_setting_or_image_is_said_and_worst_first() {
    let mut b = sample::document();
    b.machine.kernel = "6.12.0".into();
    b.machine.cpu = "Another".into();
    b.machine.kind = MachineKind::Emulated;
    b.machine.mitigations.remove("retbleed");
    b.machine.busy = 0.5;
    b.settings.cold_cache = true;
    b.contenders[0].image = Some("sha256:1".into());
    b.interrupted = true;
    let of = compare(&sample::document(), &b);
    let text = said(&of);
    for wanted in [
        "The kernel differs: 6.1.0-32-amd64 in A, 6.12.0 in B",
        "The processor differs",
        "emulated host",
        "retbleed: none",
        "50 % before B",
        "page cache differs",
        "image of vial",
        "B was ended early",
    ] {
        assert!(text.contains(wanted), "no {wanted:?} in\n{text}");
    }
    assert!(of.cautions.is_sorted_by(|x, y| x.weight >= y.weight));
    assert_eq!(of.cautions[0].weight, Weight::Grave);
    assert!(super::text(&of).contains("Times (EMULATED HOST"));
}

#[test]
fn counts_that_lie_apart_changed_and_others_did_not() {
    let mut b = sample::document();
    for counts in &mut b.startup[0].counts {
        counts.syscalls = counts.syscalls.map(|n| n / 2);
        counts.tasks = None;
    }
    let of = compare(&sample::document(), &b);
    let apart: Vec<&str> = of.counts.iter().filter(|c| c.apart).map(|c| c.what.as_str()).collect();
    assert_eq!(apart, ["system calls, exit"]);
    assert!(of.counts.iter().all(|c| c.contender != "vial" || !c.what.starts_with("tasks")));
}

#[test]
fn densities_have_a_ratio_and_no_test() {
    let mut b = sample::document();
    b.density[0].points.iter_mut().for_each(|p| p.pss_kib /= 2);
    b.density.truncate(1);
    let of = compare(&sample::document(), &b);
    let pss = &of.untested[0];
    assert!((pss.b / pss.a - 0.5).abs() < 0.01 && pss.what == "PSS per pod, MiB");
    assert_eq!(of.only_a, ["runc, density", "podman, density"]);
    assert!(text(&of).contains("there is no test"));
}

#[test]
fn documents_without_anything_in_common_or_with_a_sample_each_are_compared_without_a_panic() {
    let of = compare(&sample::document(), &sample::empty());
    assert!(text(&of).contains("nothing in common") && of.only_a.len() > 20, "{of:?}");
    assert!(text(&compare(&sample::empty(), &sample::empty())).contains("nothing in common"));
    let mut b = sample::document();
    b.startup.iter_mut().for_each(|s| s.samples_ms.truncate(1));
    b.boot.truncate(1);
    let of = compare(&sample::document(), &b);
    assert!(of.changes.iter().all(|c| c.verdict == Verdict::TooFew && c.p.is_none()));
    text(&compare(&sample::evil(), &sample::evil()));
}

#[test]
fn holm_multiplies_the_smallest_most_and_keeps_the_order() {
    let with = |p| Change {
        contender: String::new(),
        what: String::new(),
        a: 1.0,
        b: 2.0,
        samples: 9,
        ratio: None,
        p,
        verdict: Verdict::More,
    };
    let mut changes = [with(Some(0.02)), with(Some(0.001)), with(None), with(Some(0.011)), with(Some(0.9))];
    correct(&mut changes);
    // As p.adjust(c(.02, .001, .011, .9), "holm") in R.
    let corrected: Vec<Option<f64>> = changes.iter().map(|c| c.p.map(|p| (p * 1e6).round() / 1e6)).collect();
    assert_eq!(corrected, [Some(0.04), Some(0.004), None, Some(0.033), Some(0.9)]);
    let verdicts: Vec<Verdict> = changes.iter().map(|c| c.verdict).collect();
    assert_eq!(verdicts, [Verdict::Equal, Verdict::More, Verdict::More, Verdict::Equal, Verdict::Equal]);
}
