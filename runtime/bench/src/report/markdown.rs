//! For pages of documentation: Markdown as GitHub shows it.

use super::blocks::{Block, Table, plain, shell};
use super::content::content;
use super::figures::groups;
use crate::result::{Document, Weight};

/// The report as Markdown, with what the one for terminals has.
pub fn markdown(document: &Document) -> String {
    let parts: Vec<String> = content(document, &groups(document)).iter().filter_map(block).collect();
    parts.join("\n")
}

fn block(block: &Block) -> Option<String> {
    Some(match block {
        Block::Heading(level, text) => format!("{} {}\n", "#".repeat(usize::from(*level)), escaped(text)),
        Block::Text(text) => format!("{}\n", escaped(text)),
        Block::Caution(weight, text) => format!("> [!{}]\n> {}\n", label(*weight), escaped(text)),
        Block::List(items) => items.iter().map(|item| format!("- {}\n", escaped(item))).collect(),
        Block::Table(table) => self::table(table),
        Block::Commands(commands) => {
            let line = |(what, line): &(String, Vec<String>)| format!("# {}\n{}\n", plain(what), shell(line));
            let lines: String = commands.iter().map(line).collect();
            // A fence ends only at one as long as itself.
            let ticks = lines.split(|c| c != '`').map(str::len).max().unwrap_or(0).max(2) + 1;
            let fence = "`".repeat(ticks);
            format!("{fence}sh\n{lines}{fence}\n")
        }
        Block::Plot(_) => return None,
    })
}

fn label(weight: Weight) -> &'static str {
    match weight {
        Weight::Grave => "CAUTION",
        Weight::Warning => "WARNING",
        Weight::Note => "NOTE",
    }
}

fn table(table: &Table) -> String {
    let row = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = row(table.columns.iter().map(|c| escaped(&c.name)).collect());
    text += &row(table.columns.iter().map(|c| if c.words { "---" } else { "---:" }.to_owned()).collect());
    text.extend(table.rows.iter().map(|cells| row(cells.iter().map(|cell| escaped(cell)).collect())));
    text
}

/// A text as one line that Markdown takes for nothing but text. Addresses stay what they are, except that they become no links.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in plain(text).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\\' | '`' | '*' | '_' | '|' | '~' | '#' | '[' | ']' | '!' | '$' => escaped.extend(['\\', c]),
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn tables_are_githubs() {
        let mut of = Table::new(&["<name", "ms"]);
        of.row(["a|b".into(), "1.00".into()]);
        assert_eq!(table(&of), "| name | ms |\n| --- | ---: |\n| a\\|b | 1.00 |\n");
    }

    #[test]
    fn nothing_from_outside_becomes_markup() {
        let text = markdown(&sample::evil());
        let outside_fences: String = text.split("```").step_by(2).collect();
        assert!(outside_fences.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
        assert!(!outside_fences.contains('<'));
        assert!(!text.contains("\n# a heading"));
    }

    #[test]
    fn a_fence_is_longer_than_any_in_it() {
        let commands = Block::Commands(vec![("exit".into(), vec!["a".into(), "````".into()])]);
        assert!(block(&commands).unwrap().starts_with("`````sh\n"));
    }

    #[test]
    fn it_holds_what_the_terminal_shows() {
        let text = markdown(&sample::document());
        for wanted in [
            "# vial bench",
            "| contender | n |",
            "| vial | 120 |",
            "## Where Vial loses",
            "> [!WARNING]",
            "```sh",
        ] {
            assert!(text.contains(wanted), "no {wanted:?} in\n{text}");
        }
    }
}
