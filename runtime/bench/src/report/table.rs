//! For terminals: plain text, aligned, in most cases not wider than 100 columns.

use super::blocks::{Block, Table, plain, shell};
use super::content::content;
use super::figures::groups;
use crate::result::{Document, Weight};

/// Where sentences are broken.
const WIDTH: usize = 100;

/// The report as text.
pub fn text(document: &Document) -> String {
    render(&content(document, &groups(document)))
}

/// Any blocks as text.
pub fn render(blocks: &[Block]) -> String {
    let mut text = String::new();
    for block in blocks {
        let part = match block {
            Block::Heading(level, heading) => self::heading(*level, &plain(heading)),
            Block::Text(text) => wrapped("", &plain(text)),
            Block::Caution(weight, text) => wrapped(label(*weight), &plain(text)),
            Block::List(items) => items.iter().map(|item| wrapped("- ", &plain(item))).collect(),
            Block::Table(table) => self::table(table),
            Block::Commands(commands) => {
                let line = |(what, line): &(String, Vec<String>)| {
                    format!("  {}:\n    {}\n", plain(what), shell(line))
                };
                commands.iter().map(line).collect()
            }
            Block::Plot(_) => continue,
        };
        // A heading stands apart from what is above it, and close to what it heads.
        let apart = matches!(block, Block::Heading(..))
            || matches!(block, Block::Table(_) | Block::List(_))
                && !text.ends_with("=\n")
                && !text.ends_with("-\n");
        if apart && !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&part);
    }
    text
}

fn heading(level: u8, text: &str) -> String {
    let line = if level == 1 { "=" } else { "-" };
    if level > 2 {
        format!("{text}:\n")
    } else {
        format!("{text}\n{}\n", line.repeat(text.chars().count().min(WIDTH)))
    }
}

fn label(weight: Weight) -> &'static str {
    match weight {
        Weight::Grave => "GRAVE: ",
        Weight::Warning => "Warning: ",
        Weight::Note => "Note: ",
    }
}

/// A text behind a label, its other lines below its first word.
fn wrapped(label: &str, text: &str) -> String {
    let indent = label.chars().count();
    let mut lines = label.to_owned();
    let mut column = indent;
    for word in text.split(' ') {
        let width = word.chars().count();
        if column > indent && column + 1 + width > WIDTH {
            lines.push('\n');
            lines.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        } else if column > indent {
            lines.push(' ');
            column += 1;
        }
        lines.push_str(word);
        column += width;
    }
    lines.push('\n');
    lines
}

fn table(table: &Table) -> String {
    let cells: Vec<Vec<String>> = std::iter::once(table.columns.iter().map(|c| plain(&c.name)).collect())
        .chain(table.rows.iter().map(|row| row.iter().map(|cell| plain(cell)).collect()))
        .collect();
    let width = |column: usize| {
        cells.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..table.columns.len()).map(width).collect();
    let mut text = String::new();
    for row in &cells {
        let mut line = String::new();
        for ((cell, column), width) in row.iter().zip(&table.columns).zip(&widths) {
            let cell = if column.words { format!("{cell:<width$}") } else { format!("{cell:>width$}") };
            line.push_str("  ");
            line.push_str(&cell);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn a_report_fits_a_terminal_and_holds_what_was_measured() {
        let text = text(&sample::document());
        for wanted in [
            "qemu-microvm",
            "docker: missing",
            "runsc: unusable here",
            "Where Vial loses",
            "runc is faster than vial, p ≤ 0.0001.",
            "podman failed 3 of 30",
            "guest kernel",
            "VM exits",
            "AMD EPYC",
        ] {
            assert!(text.contains(wanted), "no {wanted:?} in\n{text}");
        }
        for line in text.lines().filter(|line| !line.starts_with("    ")) {
            assert!(line.chars().count() <= WIDTH, "{} columns: {line}", line.chars().count());
        }
    }

    #[test]
    fn nothing_from_outside_speaks_to_the_terminal() {
        let text = text(&sample::evil());
        assert!(text.contains(sample::EVIL));
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
    }

    #[test]
    fn columns_are_aligned() {
        let mut of = Table::new(&["<name", "ms"]);
        of.row(["a".into(), "1.00".into()]);
        of.row(["longer".into(), "100".into()]);
        assert_eq!(table(&of), "  name      ms\n  a       1.00\n  longer   100\n");
    }

    #[test]
    fn long_texts_are_broken_below_their_first_word() {
        let text = wrapped("- ", &"word ".repeat(30));
        assert!(text.lines().count() == 2 && text.lines().all(|l| l.chars().count() <= WIDTH));
        assert!(text.lines().nth(1).is_some_and(|line| line.starts_with("  word")));
    }
}
