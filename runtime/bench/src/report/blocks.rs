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
        plain.extend(word.chars().filter(|c| !is_hidden(*c)));
        if let Some((end, _)) = plain.char_indices().nth(LONGEST) {
            plain.truncate(end);
            plain.push('…');
            break;
        }
    }
    plain
}

/// A command line as a shell (bash) takes it, whole, in one line: what has power over terminals is written as an escape.
pub fn shell(command: &[String]) -> String {
    command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    if word.chars().any(|c| c.is_control() || is_hidden(c)) {
        let escaped: String = word
            .chars()
            .map(|c| match c {
                '\'' | '\\' => format!("\\{c}"),
                '\n' => "\\n".to_owned(),
                _ if c.is_control() || is_hidden(c) => format!("\\u{:04x}", u32::from(c)),
                _ => c.to_string(),
            })
            .collect();
        return format!("$'{escaped}'");
    }
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_=+:,./@%".contains(c);
    if !word.is_empty() && word.chars().all(safe) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Characters that turn the direction of writing, take no room, or end lines.
fn is_hidden(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
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
        assert_eq!(shell(&["a\x1b[31m\n'\u{202e}".to_owned()]), r"$'a\u001b[31m\n\'\u202e'");
        let long = "x ".repeat(2000);
        assert_eq!(shell(std::slice::from_ref(&long)), format!("'{long}'"));
    }
}
