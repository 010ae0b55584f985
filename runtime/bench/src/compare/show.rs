//! A comparison for people.

use super::{Change, Comparison};
use crate::report::blocks::{Block, Table};
use crate::report::numbers::{NONE, count, ms, or_none, p, times, times_interval};
use crate::report::{labelled, render};
use crate::stats::{FEWEST, LEVEL, SHUFFLES, Verdict};

/// The comparison as text for a terminal.
pub fn text(of: &Comparison) -> String {
    render(&blocks(of))
}

/// The comparison as blocks, for the other forms.
pub fn blocks(of: &Comparison) -> Vec<Block> {
    let mut blocks = vec![Block::Heading(1, "vial bench: from A to B".to_owned())];
    blocks.extend(of.cautions.iter().map(|caution| Block::Caution(caution.weight, caution.text.clone())));
    if of.changes.is_empty() && of.untested.is_empty() && of.counts.is_empty() {
        blocks.push(Block::Text("A and B measured nothing in common.".to_owned()));
    }
    blocks.extend(changes(of));
    blocks.extend(counts(of));
    blocks.extend(untested(of));
    for (which, only) in [("A", &of.only_a), ("B", &of.only_b)] {
        if !only.is_empty() {
            blocks.extend([Block::Heading(2, format!("Only in {which}")), Block::List(only.clone())]);
        }
    }
    blocks
}

fn changes(of: &Comparison) -> Vec<Block> {
    if of.changes.is_empty() {
        return Vec::new();
    }
    let mut table =
        Table::of_contenders(&["<contender", "<what", "A ms", "B ms", "B to A [95 %]", "p", "<B is"]);
    for change in &of.changes {
        table.row([
            change.contender.clone(),
            change.what.clone(),
            ms(change.a),
            ms(change.b),
            or_none(change.ratio, |ratio| times_interval(ratio, change.samples)),
            or_none(change.p, |value| p(value).replace("p = ", "").replace("p ", "")),
            verdict(change).to_owned(),
        ]);
    }
    let tests = of.changes.iter().filter(|change| change.p.is_some()).count();
    let beyond = of.changes.iter().filter(|c| matches!(c.verdict, Verdict::Less | Verdict::More)).count();
    let mut text = format!(
        "{beyond} of {tests} tests found a difference beyond chance. p is corrected for their number (Holm), and a difference is called one below {LEVEL}; with fewer than {FEWEST} samples in A or B \
         nothing is tested. Medians; with several at once, of rounds."
    );
    if tests as f64 / (SHUFFLES + 1) as f64 >= LEVEL {
        text += " With so many tests none can be below that: compare less at once.";
    }
    vec![heading("Times", of.emulated), Block::Table(table), Block::Text(text)]
}

fn verdict(of: &Change) -> &'static str {
    match of.verdict {
        Verdict::Less => "faster",
        Verdict::More => "SLOWER",
        Verdict::Equal => "no different",
        Verdict::TooFew => "not tested",
    }
}

fn counts(of: &Comparison) -> Vec<Block> {
    if of.counts.is_empty() {
        return Vec::new();
    }
    let mut blocks = vec![Block::Heading(2, "Counted in one start".to_owned())];
    let mut table = Table::of_contenders(&["<contender", "<what", "A", "B", "B to A"]);
    for counted in of.counts.iter().filter(|counted| counted.apart) {
        table.row([
            counted.contender.clone(),
            counted.what.clone(),
            count(counted.a),
            count(counted.b),
            ratio(counted.a, counted.b),
        ]);
    }
    let same = of.counts.len() - table.rows.len();
    if !table.rows.is_empty() {
        blocks.push(Block::Table(table));
    }
    blocks.push(Block::Text(format!(
        "Shown are medians where all counts of A lie on one side of all of B; {same} others do not differ so."
    )));
    blocks
}

fn untested(of: &Comparison) -> Vec<Block> {
    if of.untested.is_empty() {
        return Vec::new();
    }
    let mut table = Table::of_contenders(&["<contender", "<what", "A", "B", "B to A"]);
    for figure in &of.untested {
        table.row([
            figure.contender.clone(),
            figure.what.clone(),
            format!("{:.2}", figure.a),
            format!("{:.2}", figure.b),
            ratio(figure.a, figure.b),
        ]);
    }
    let text = "One measurement each: there is no test, and nobody knows how much of it is noise.".to_owned();
    vec![heading("Density", of.emulated), Block::Table(table), Block::Text(text)]
}

fn heading(text: &str, emulated: bool) -> Block {
    Block::Heading(2, labelled(text, emulated))
}

fn ratio(a: f64, b: f64) -> String {
    if a > 0.0 { times(b / a) } else { NONE.to_owned() }
}
