//! All that the command line says: output to standard output, where a closed pipe is a plain error, and remarks on standard error, which may
//! be a terminal that has vanished. `print!` and `eprintln!` would panic there.

use crate::error::{Error, Result};
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

/// A line on standard error, with whose it is.
pub fn tell(line: &str) {
    remark(&format!("vial: {line}\n"));
}

/// Text on standard error as it is.
pub fn remark(text: &str) {
    let mut err = std::io::stderr().lock();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}
