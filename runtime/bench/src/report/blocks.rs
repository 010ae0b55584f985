//! What a report is made of, whatever its form.

use crate::result::{Scenario, Weight};

/// A part of a report, below the one before it.
#[derive(Debug, Clone, PartialEq)]
pub enum Block {
    /// A heading of level 1 to 3.
    Heading(u8, String),
    /// A paragraph.
    Text(String),
    /// What must be seen.
    Caution(Weight, String),
    /// Sentences below each other.
    List(Vec<String>),
    /// Figures in rows.
    Table(Table),
    /// Command lines, each with what it is for.
    Commands(Vec<(String, Vec<String>)>),
    /// A plot, where there can be one.
    Plot(Plot),
}

/// Which plot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plot {
    /// Distribution functions and box plots of starts, so many at once.
    Startup(Scenario, u32),
    /// One start, from step to step.
    Waterfall,
    /// Memory against the number of pods.
    Density,
}

/// Rows of figures.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    /// The columns.
    pub columns: Vec<Column>,
    /// Cells, as many in each row as there are columns.
    pub rows: Vec<Vec<String>>,
    /// Whether the first column names contenders, which have colours.
    pub of_contenders: bool,
}

/// A column.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Its heading.
    pub name: String,
    /// Words stand to the left, figures to the right.
    pub words: bool,
}

impl Table {
    /// Without rows; a column whose name begins with `<` has words.
    pub fn new(columns: &[&str]) -> Self {
        let column = |name: &&str| match name.strip_prefix('<') {
            Some(name) => Column { name: name.to_owned(), words: true },
            None => Column { name: (*name).to_owned(), words: false },
        };
        Self { columns: columns.iter().map(column).collect(), ..Self::default() }
    }

    /// The same, with contenders in the first column.
    pub fn of_contenders(columns: &[&str]) -> Self {
        Self { of_contenders: true, ..Self::new(columns) }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

/// The longest text from outside that is shown; a rival that fails may write a lot.
const LONGEST: usize = 600;

/// A text from outside as one line without power over terminals: no control characters, none that turn the direction of writing, no more than one
/// blank after another, and an end.
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len().min(LONGEST));
    for (count, word) in
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).enumerate()
    {
        if count > 0 {
            plain.push(' ');
        }
        plain.extend(word.chars().filter(|c| !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')));
        if let Some((end, _)) = plain.char_indices().nth(LONGEST) {
            plain.truncate(end);
            plain.push('…');
            break;
        }
    }
    plain
}

/// A command line as a shell takes it.
pub fn shell(command: &[String]) -> String {
    let safe = |word: &str| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_=+:,./@%".contains(c))
    };
    let quote =
        |word: &String| if safe(word) { word.clone() } else { format!("'{}'", word.replace('\'', r"'\''")) };
    command.iter().map(quote).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_from_outside_become_one_harmless_line() {
        assert_eq!(plain("a\x1b[31m red\r\n\n  line\t\u{202e}x\u{7}"), "a [31m red line x");
        assert_eq!(plain(&"y".repeat(5000)).chars().count(), LONGEST + 1);
        assert_eq!(plain(" \n "), "");
    }

    #[test]
    fn commands_can_be_given_to_a_shell_again() {
        let words = ["qemu", "-append", "console=ttyS0 quiet", "it's", ""].map(str::to_owned);
        assert_eq!(shell(&words), r"qemu -append 'console=ttyS0 quiet' 'it'\''s' ''");
    }
}
