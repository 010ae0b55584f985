//! All that the command line says: output to standard output, where a closed pipe is a plain error, and remarks on standard error, which may
//! be a terminal that has vanished. `print!` and `eprintln!` would panic there.

use crate::error::{Error, Result};
use std::borrow::Cow;
use std::io::Write;

/// A line on standard output.
///
/// # Errors
/// When it can't be written: a closed pipe, a full disk.
pub fn say(line: &str) -> Result<()> {
    say_whole(line.trim_end_matches('\n'))
}

/// A line that may be empty or end in empty ones, as templates make them.
///
/// # Errors
/// When it can't be written.
pub fn say_whole(line: &str) -> Result<()> {
    write(&format!("{line}\n")).map_err(Error::io("write to standard output"))
}

/// Pretty JSON on standard output.
///
/// # Errors
/// When it can't be written.
pub fn print_json(value: &impl serde::Serialize) -> Result<()> {
    say(&serde_json::to_string_pretty(value)?)
}

/// The same for commands with errors of their own.
///
/// # Errors
/// When it can't be written.
pub fn write(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// Remarks on standard error, with whose they are. They may quote anything: names of files in a container, a registry's words, what a
/// tar holds. So none of it steers the terminal.
pub fn tell(line: &str) {
    remark(&format!("vial: {}\n", plain(line)));
}

/// Text on standard error as it is.
pub fn remark(text: &str) {
    let mut err = std::io::stderr().lock();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

/// Foreign text that steers no terminal: lines stay lines, anything else that moves, hides or reorders what is around it is shown as what it is.
pub fn plain(text: &str) -> Cow<'_, str> {
    let harmless = |c: char| !steers(c) || matches!(c, '\n' | '\t');
    if text.chars().all(harmless) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match harmless(c) {
            true => shown.push(c),
            false => shown.extend(c.escape_default()),
        }
    }
    shown.into()
}

/// Whether a character does something to a terminal instead of being shown: controls (C0, DEL, C1), and those that turn the direction of
/// the text around them (Unicode's bidirectional formatting characters, UAX #9).
pub fn steers(c: char) -> bool {
    let turns =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_quoted_steers_no_terminal() {
        let name =
            "cannot make \u{1b}]0;pwn\u{7}\u{1b}[31mRED\r: no\n\tnext\u{9b}2J \u{7f}\u{202e}txt.exe\u{2069}";
        assert_eq!(
            plain(name),
            "cannot make \\u{1b}]0;pwn\\u{7}\\u{1b}[31mRED\\r: no\n\tnext\\u{9b}2J \\u{7f}\\u{202e}txt.exe\\u{2069}"
        );
        assert!(matches!(plain("größer: \u{5d0} 表\n\tno"), Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn nothing_gets_through(text in any::<String>()) {
            prop_assert!(plain(&text).chars().all(|c| !steers(c) || c == '\n' || c == '\t'));
        }
    }
}
