//! Whether two documents may be compared: the machine, its settings, the images, and rivals, which are the same programs and so tell whether the machine is the same.

use super::{Change, Comparison};
use crate::report::figures::{BASE, is_rival};
use crate::report::numbers::times;
use crate::result::{Caution, Document, MachineKind, Weight};
use crate::stats::Verdict;

/// From this share of the processors on others' work differs.
const BUSIER: f64 = 0.05;

/// What is not the same around the programs, and what was wrong with A or B already.
pub fn differences(a: &Document, b: &Document) -> Vec<Caution> {
    let mut cautions = Vec::new();
    let mut say = |weight, text: String| cautions.push(Caution { weight, text });
    for (which, document) in [("A", a), ("B", b)] {
        for caution in document.cautions.iter().filter(|c| c.weight == Weight::Grave) {
            say(Weight::Grave, format!("Of {which}: {}", caution.text));
        }
        if document.interrupted {
            say(
                Weight::Warning,
                format!("{which} was ended early: its samples are fewer than was asked for."),
            );
        }
        if document.machine.kind == MachineKind::Emulated {
            let text = "was measured on an emulated host: its times, and ratios of them, are not those of bare metal.";
            say(Weight::Grave, format!("{which} {text}"));
        }
    }
    for (weight, what, x, y) in settings(a, b) {
        if x != y {
            say(
                weight,
                format!("{what} differs: {x} in A, {y} in B; a difference is not the programs' alone."),
            );
        }
    }
    let (m, n) = (&a.machine, &b.machine);
    if (m.busy - n.busy).abs() > BUSIER {
        let text = format!(
            "Others used {:.0} % of the processors before A and {:.0} % before B.",
            100.0 * m.busy,
            100.0 * n.busy
        );
        say(Weight::Warning, text);
    }
    for x in &a.contenders {
        let Some(y) = b.contender(&x.name) else { continue };
        if x.image.is_some() && y.image.is_some() && x.image != y.image {
            say(
                Weight::Warning,
                format!("The image of {} is another one in B: its starts do not do the same.", x.name),
            );
        }
        if is_rival(a, &x.name) && x.version.is_some() && y.version.is_some() && x.version != y.version {
            let version = |of: &Option<String>| of.clone().unwrap_or_default();
            let text = format!(
                "{} is another version in B ({} in A, {} in B).",
                x.name,
                version(&x.version),
                version(&y.version)
            );
            say(Weight::Note, text);
        }
        if x.commands.iter().any(|(what, line)| y.commands.get(what).is_some_and(|other| !alike(line, other)))
            && is_rival(a, &x.name)
        {
            say(Weight::Note, format!("The command line of {} differs.", x.name));
        }
    }
    cautions
}

/// What must be the same, as (weight, name, in A, in B).
fn settings(a: &Document, b: &Document) -> Vec<(Weight, &'static str, String, String)> {
    let ((m, n), (s, t)) = ((&a.machine, &b.machine), (&a.settings, &b.settings));
    let kind = |kind| match kind {
        MachineKind::BareMetal => "bare metal".to_owned(),
        MachineKind::Nested => "a virtual machine".to_owned(),
        MachineKind::Emulated => "an emulated processor".to_owned(),
    };
    let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
    let cache = |cold| if cold { "dropped before each start" } else { "warm" }.to_owned();
    // The kernel takes a little more or less for itself at each boot.
    let gib = |kib: u64| format!("{:.0} GiB", kib as f64 / f64::from(1 << 20));
    let mut settings = vec![
        (Weight::Grave, "The kind of machine", kind(m.kind), kind(n.kind)),
        (Weight::Grave, "The processor", m.cpu.clone(), n.cpu.clone()),
        (Weight::Grave, "The number of processors", m.cpus.to_string(), n.cpus.to_string()),
        (Weight::Warning, "The memory", gib(m.memory_kib), gib(n.memory_kib)),
        (Weight::Warning, "The kernel", m.kernel.clone(), n.kernel.clone()),
        (Weight::Note, "The distribution", m.os.clone(), n.os.clone()),
        (Weight::Warning, "KVM's module", or_none(&m.kvm_module), or_none(&n.kvm_module)),
        (Weight::Warning, "The frequency governor", m.governors.join(" and "), n.governors.join(" and ")),
        (Weight::Warning, "The setting of huge pages", or_none(&m.huge_pages), or_none(&n.huge_pages)),
        (Weight::Grave, "The page cache", cache(s.cold_cache), cache(t.cold_cache)),
        (Weight::Warning, "The image", s.image.clone(), t.image.clone()),
        (
            Weight::Note,
            "The number of runs before the counted ones",
            s.warmups.to_string(),
            t.warmups.to_string(),
        ),
    ];
    if s.server_image.is_some() && t.server_image.is_some() {
        settings.push((
            Weight::Warning,
            "The image of the web server",
            or_none(&s.server_image),
            or_none(&t.server_image),
        ));
    }
    let faults: std::collections::BTreeSet<&String> =
        m.mitigations.keys().chain(n.mitigations.keys()).collect();
    let differing = faults.into_iter().filter(|fault| m.mitigations.get(*fault) != n.mitigations.get(*fault));
    for fault in differing {
        let of = |machine: &crate::result::Machine| or_none(&machine.mitigations.get(fault).cloned());
        settings.push((
            Weight::Warning,
            "What Linux does against a fault of the processor",
            format!("{fault}: {}", of(m)),
            format!("{fault}: {}", of(n)),
        ));
    }
    settings
}

/// Rivals that are the same program in both and yet moved: then the machine moved.
pub fn drift(a: &Document, b: &Document, changes: &[Change]) -> Vec<Caution> {
    let same = |name: &str| match (a.contender(name), b.contender(name)) {
        (Some(x), Some(y)) => {
            is_rival(a, name)
                && x.version == y.version
                && x.program == y.program
                && x.image == y.image
                && x.commands.keys().eq(y.commands.keys())
                && x.commands.values().zip(y.commands.values()).all(|(one, other)| alike(one, other))
        }
        _ => false,
    };
    let way = |of: &Change| if of.verdict == Verdict::More { "slower" } else { "faster" };
    let ratio = |of: &Change| of.ratio.map(|r| format!(" ({})", times(r.value))).unwrap_or_default();
    let mut cautions = Vec::new();
    for rival in a.contenders.iter().filter(|c| same(&c.name)) {
        let moved: Vec<&Change> = changes
            .iter()
            .filter(|c| matches!(c.verdict, Verdict::Less | Verdict::More) && c.contender == rival.name)
            .collect();
        if moved.is_empty() {
            continue;
        }
        let each: Vec<String> =
            moved.iter().map(|of| format!("{} in {}{}", way(of), of.what, ratio(of))).collect();
        let with_it = |own: &Change| moved.iter().any(|it| it.what == own.what && it.verdict == own.verdict);
        let meaning = if changes.iter().filter(|c| c.contender == BASE).any(with_it) {
            format!("{BASE} moved the same way, so that is not {BASE}'s doing alone")
        } else {
            format!("what changed of {BASE} may not be its doing")
        };
        let name = &rival.name;
        let text = format!(
            "{name}, the same program in A and B, became {}: the machine moved; {meaning}.",
            each.join(", ")
        );
        cautions.push(Caution { weight: Weight::Warning, text });
    }
    cautions
}

impl Comparison {
    /// Whether anything of Vial's own became slower beyond chance.
    pub fn vial_became_slower(&self) -> bool {
        self.changes.iter().any(|change| change.contender == BASE && change.verdict == Verdict::More)
    }
}

/// Whether two command lines differ in names, folders and ports at most, which each bench makes up anew.
fn alike(one: &[String], other: &[String]) -> bool {
    let made_up = |word: &String| word.contains("vial-bench") || word.starts_with("127.0.0.1:");
    one.len() == other.len()
        && one.iter().zip(other).all(|(one, other)| one == other || (made_up(one) && made_up(other)))
}
