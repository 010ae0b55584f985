//! What a reader must know before believing a figure: a pure judgement of a document.

use crate::result::{Caution, ContenderKind, ContenderState, Document, MachineKind, Startup, Weight};
use crate::stats;

/// Fewer runs than this make wide intervals; a quantile of 90 % means nothing.
const FEW_RUNS: u32 = 10;
/// A share of processor time used by others from which figures are off.
const BUSY: f64 = 0.1;

/// All that there is to say, the gravest first.
pub fn judge(document: &Document) -> Vec<Caution> {
    let mut cautions = Vec::new();
    let mut say = |weight, text: String| cautions.push(Caution { weight, text });
    machine(document, &mut say);
    settings(document, &mut say);
    contenders(document, &mut say);
    for startup in &document.startup {
        samples(document, startup, &mut say);
    }
    cautions.sort_by_key(|caution| std::cmp::Reverse(caution.weight));
    cautions
}

fn machine(document: &Document, say: &mut impl FnMut(Weight, String)) {
    let machine = &document.machine;
    match machine.kind {
        MachineKind::Emulated => say(
            Weight::Grave,
            "This host's processor is emulated in software. Neither the times nor their ratios are those of bare metal: emulation slows \
             runc some 13 times, crun some 31 times, and VMs differently again. Counts per start (processes, system calls, VM exits) and \
             memory are true."
                .into(),
        ),
        MachineKind::Nested => say(
            Weight::Warning,
            "This host is itself a virtual machine: each exit of a VM in it costs several times what it does on bare metal, and \
             containers pay nothing of the kind."
                .into(),
        ),
        MachineKind::BareMetal => {}
    }
    if machine.busy > BUSY || machine.load > 0.8 * f64::from(machine.cpus.max(1)) {
        say(
            Weight::Warning,
            format!(
                "The machine was busy before the first start: {:.0} % of its processors' time, load {:.2} on {} processors.",
                machine.busy * 100.0,
                machine.load,
                machine.cpus
            ),
        );
    }
    let slow: Vec<&str> =
        machine.governors.iter().map(String::as_str).filter(|name| *name != "performance").collect();
    if !slow.is_empty() {
        say(
            Weight::Note,
            format!(
                "The frequency governor is {}: short programs may end before the processor is fast. `cpupower frequency-set -g performance` \
                 takes that away.",
                slow.join(" and ")
            ),
        );
    }
}

fn settings(document: &Document, say: &mut impl FnMut(Weight, String)) {
    let settings = &document.settings;
    if document.interrupted {
        say(Weight::Warning, "Interrupted: less was measured than was asked for.".into());
    }
    if !document.startup.is_empty() && settings.runs < FEW_RUNS {
        say(
            Weight::Warning,
            format!(
                "{} runs of each are few: below {FEW_RUNS} intervals are wide and differences rarely beyond chance.",
                settings.runs
            ),
        );
    }
    if !document.startup.is_empty() {
        say(
            Weight::Note,
            if settings.cold_cache {
                "Cold caches: the page cache was dropped before each start, for all of them; daemons kept what they hold in memory.".into()
            } else {
                "Warm caches: all that a start reads was read before, for all of them; daemons (Vial's, Docker's) run already.".to_owned()
            },
        );
    }
}

fn contenders(document: &Document, say: &mut impl FnMut(Weight, String)) {
    let images: Vec<(&str, &str)> = document
        .contenders
        .iter()
        .filter(|contender| contender.state == ContenderState::Measured)
        .filter_map(|contender| Some((contender.name.as_str(), contender.image.as_deref()?)))
        .collect();
    if let Some((first, image)) = images.first() {
        let others: Vec<&str> =
            images.iter().filter(|(_, other)| other != image).map(|(name, _)| *name).collect();
        if !others.is_empty() {
            say(
                Weight::Warning,
                format!("Unequal images: {} had another one than {first}.", others.join(", ")),
            );
        }
    }
    let measured =
        |kind| document.contenders.iter().any(|c| c.kind == kind && c.state == ContenderState::Measured);
    if !document.startup.is_empty() && measured(ContenderKind::Vm) {
        say(
            Weight::Note,
            "The bare VMs run the command as their first process, from an initial RAM disk: no image, no container, no network. They are \
             what a VM costs at least, not what a pod costs."
                .into(),
        );
    }
}

fn samples(document: &Document, startup: &Startup, say: &mut impl FnMut(Weight, String)) {
    let what = place(startup);
    if !startup.failures.is_empty() {
        let weight = if startup.samples_ms.is_empty() { Weight::Note } else { Weight::Warning };
        say(
            weight,
            format!(
                "{} of {} starts failed: {what}.",
                startup.failures.len(),
                startup.failures.len() + startup.samples_ms.len()
            ),
        );
    }
    // With several at once the samples of a round belong together; what drifts are rounds.
    let halves = &startup.samples_ms;
    if startup.concurrency == 1 && halves.len() >= 4 * stats::FEWEST {
        let (first, second) = halves.split_at(halves.len() / 2);
        let (verdict, _) = stats::compare(first, second, document.seed);
        let change = |a: &[f64], b: &[f64]| Some(stats::median(b)? / stats::median(a)?);
        if verdict != stats::Verdict::Equal
            && let Some(change) = change(first, second)
            && !(0.95..=1.05).contains(&change)
        {
            say(
                Weight::Warning,
                format!(
                    "It drifted: the second half of the starts took {change:.2} times as long as the first: {what}."
                ),
            );
        }
    }
}

fn place(startup: &Startup) -> String {
    let scenario = startup.scenario.title();
    match startup.concurrency {
        1 => format!("{}, {scenario}", startup.contender),
        many => format!("{}, {scenario}, {many} at once", startup.contender),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Contender, Failure, Machine, Scenario, Settings};

    fn document(kind: MachineKind) -> Document {
        let contender = |name: &str, image: &str| Contender {
            name: name.into(),
            title: String::new(),
            kind: ContenderKind::Container,
            program: None,
            version: None,
            state: ContenderState::Measured,
            notes: vec![],
            image: Some(image.into()),
            commands: Default::default(),
        };
        Document {
            format: crate::result::FORMAT,
            benches: vec!["startup".into()],
            vial: "0".into(),
            began_ms: 0,
            took_s: 1.0,
            command: vec![],
            seed: 1,
            interrupted: false,
            machine: Machine { kind, cpus: 4, ..Machine::default() },
            settings: Settings { runs: 20, ..Settings::default() },
            contenders: vec![contender("vial", "a"), contender("podman", "a")],
            startup: vec![Startup {
                contender: "vial".into(),
                scenario: Scenario::Exit,
                concurrency: 1,
                samples_ms: (0..20).map(|i| 100.0 + f64::from(i % 5)).collect(),
                rounds_ms: vec![],
                failures: vec![],
                counts: vec![],
            }],
            boot: vec![],
            density: vec![],
            cautions: vec![],
        }
    }

    fn heard(document: &Document, weight: Weight, word: &str) -> bool {
        judge(document).iter().any(|caution| caution.weight == weight && caution.text.contains(word))
    }

    #[test]
    fn a_quiet_real_machine_has_only_notes() {
        assert!(
            judge(&document(MachineKind::BareMetal)).iter().all(|caution| caution.weight == Weight::Note)
        );
    }

    #[test]
    fn emulated_and_nested_hosts_are_said_first() {
        let emulated = judge(&document(MachineKind::Emulated));
        assert!(emulated[0].weight == Weight::Grave && emulated[0].text.contains("emulated"));
        assert!(heard(&document(MachineKind::Nested), Weight::Warning, "itself a virtual machine"));
    }

    #[test]
    fn few_runs_a_busy_machine_other_images_failures_and_drift_are_said() {
        let mut one = document(MachineKind::BareMetal);
        one.settings.runs = 3;
        one.machine.busy = 0.4;
        one.contenders[1].image = Some("b".into());
        one.startup[0].failures.push(Failure { run: 3, reason: "x".into() });
        one.startup[0].samples_ms =
            (0..20).map(|i| if i < 10 { 100.0 } else { 150.0 } + f64::from(i % 3)).collect();
        for word in ["3 runs", "busy", "podman had another one", "1 of 21", "drifted"] {
            assert!(heard(&one, Weight::Warning, word), "{word}: {:#?}", judge(&one));
        }
    }

    #[test]
    fn caches_are_named() {
        let mut one = document(MachineKind::BareMetal);
        assert!(heard(&one, Weight::Note, "Warm caches"));
        one.settings.cold_cache = true;
        assert!(heard(&one, Weight::Note, "Cold caches"));
    }
}
