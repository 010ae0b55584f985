//! What a report says, in which order: what forbids believing it first, then the machine, the figures, where Vial loses, and how it was done.

use super::blocks::Block;
use super::figures::Group;
use super::{boot, density, loses, machine, startup};
use crate::result::{Caution, Document, MachineKind, Weight};

/// What an emulated host's headings say.
const EMULATED: &str = "EMULATED HOST: not the times or ratios of bare metal";

/// The whole report.
pub fn content(document: &Document, groups: &[Group<'_>]) -> Vec<Block> {
    let mut blocks = vec![Block::Heading(1, title(document))];
    blocks.extend(document.cautions.iter().filter(|c| c.weight == Weight::Grave).map(caution));
    if document.interrupted {
        let text =
            "This measurement was ended early: what is here was measured, but it is less than was asked for.";
        blocks.push(Block::Caution(Weight::Warning, text.to_owned()));
    }
    blocks.extend(machine::blocks(document));
    if document.startup.is_empty() && document.boot.is_empty() && document.density.is_empty() {
        blocks.push(Block::Text("Nothing was measured.".to_owned()));
    }
    blocks.extend(startup::blocks(document, groups));
    blocks.extend(boot::blocks(document));
    blocks.extend(density::blocks(document));
    blocks.extend(loses::blocks(document, groups));
    blocks.extend(startup::unmeasured(document));
    let rest: Vec<&Caution> = document.cautions.iter().filter(|c| c.weight != Weight::Grave).collect();
    if !rest.is_empty() {
        blocks.push(Block::Heading(2, "Cautions".to_owned()));
        blocks.extend(rest.into_iter().map(caution));
    }
    blocks.extend(method(document));
    blocks
}

/// A text with the label of an emulated host.
pub fn labelled(text: &str, emulated: bool) -> String {
    if emulated { format!("{text} ({EMULATED})") } else { text.to_owned() }
}

/// A heading of times: on an emulated host no one may be read without the label.
pub fn times_heading(document: &Document, level: u8, text: &str) -> Block {
    Block::Heading(level, labelled(text, document.machine.kind == MachineKind::Emulated))
}

fn title(document: &Document) -> String {
    let benches =
        if document.benches.is_empty() { "nothing".to_owned() } else { document.benches.join(", ") };
    format!("vial bench: {benches}")
}

fn caution(of: &Caution) -> Block {
    Block::Caution(of.weight, of.text.clone())
}

/// How it was measured, and with which command lines.
fn method(document: &Document) -> Vec<Block> {
    let settings = &document.settings;
    let mut list = vec![
        format!("Made by Vial {} in {:.0} s.", document.vial, document.took_s),
        format!(
            "{} counted runs of each after {} not counted, one contender after the other in each round; a start is given up after {} s; the page cache was {}.",
            settings.runs,
            settings.warmups,
            settings.timeout_s,
            if settings.cold_cache { "dropped before each start" } else { "left warm" }
        ),
    ];
    if !document.startup.is_empty() {
        list.push(format!(
            "Image: {}{}.",
            settings.image,
            settings
                .server_image
                .as_ref()
                .map(|image| format!("; of the web server: {image}"))
                .unwrap_or_default()
        ));
        list.push(
            "Medians with 95 % intervals by the bootstrap; differences by a permutation test of ranks, called one below p = 0.01. With several at once, the starts of one round are not \
             independent of each other: median, interval, ratio and test are of the rounds' medians, the other figures of all starts."
                .to_owned(),
        );
    }
    let mut blocks = vec![Block::Heading(2, "How it was measured".to_owned()), Block::List(list)];
    let contenders = document.contenders.iter();
    let starts = contenders
        .flat_map(|c| c.commands.iter().map(|(what, line)| (format!("{}, {what}", c.name), line.clone())));
    let commands: Vec<(String, Vec<String>)> =
        std::iter::once(("this measurement".to_owned(), document.command.clone())).chain(starts).collect();
    blocks.extend([Block::Heading(3, "Command lines".to_owned()), Block::Commands(commands)]);
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::figures::groups;
    use crate::sample;

    fn headings(document: &Document) -> Vec<String> {
        let heading = |block| if let Block::Heading(_, text) = block { Some(text) } else { None };
        content(document, &groups(document)).into_iter().filter_map(heading).collect()
    }

    #[test]
    fn every_heading_of_times_of_an_emulated_host_says_so_and_no_other_does() {
        let mut document = sample::document();
        assert!(headings(&document).iter().all(|h| !h.contains("EMULATED")));
        document.machine.kind = MachineKind::Emulated;
        for heading in headings(&document) {
            let of_times = heading.starts_with("Start")
                || heading.starts_with("Boot")
                || heading.starts_with("Density")
                || heading.starts_with("Where");
            assert_eq!(heading.contains(EMULATED), of_times, "{heading}");
        }
    }

    #[test]
    fn grave_cautions_come_before_figures_and_others_after() {
        let mut document = sample::document();
        document.cautions.push(Caution { weight: Weight::Grave, text: "the end is near".into() });
        let blocks = content(&document, &groups(&document));
        let at = |wanted: &dyn Fn(&Block) -> bool| blocks.iter().position(wanted).unwrap();
        let grave = at(&|b| matches!(b, Block::Caution(Weight::Grave, _)));
        let note = at(&|b| matches!(b, Block::Caution(Weight::Note, _)));
        let table = at(&|b| matches!(b, Block::Table(_)));
        assert!(grave < table && table < note);
    }

    #[test]
    fn every_row_has_a_cell_for_each_column() {
        for document in [sample::document(), sample::empty(), sample::evil()] {
            for block in content(&document, &groups(&document)) {
                if let Block::Table(table) = block {
                    assert!(!table.rows.is_empty());
                    assert!(table.rows.iter().all(|row| row.len() == table.columns.len()), "{table:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_empty_or_was_interrupted_says_so() {
        let mut document = sample::empty();
        document.interrupted = true;
        let blocks = content(&document, &groups(&document));
        assert!(blocks.contains(&Block::Text("Nothing was measured.".into())));
        assert!(blocks.iter().any(|b| matches!(b, Block::Caution(_, text) if text.contains("ended early"))));
    }
}
