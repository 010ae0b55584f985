//! Text and actions, then the words of an action.

use super::{Result, error};

/// Bytes that a template may have.
const MAX_TEXT: usize = 64 << 10;

/// A piece of a template.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// As it is.
    Text(String),
    /// What is between `{{` and `}}`.
    Action(Vec<Word>),
}

/// A word of an action.
#[derive(Debug, Clone, PartialEq)]
pub enum Word {
    /// `name`, a keyword or a function.
    Name(String),
    /// `.a.b`; no names: `.` itself.
    Field(Vec<String>),
    /// `$`, `$x`, with fields behind it.
    Variable(String, Vec<String>),
    /// `"…"`, `` `…` ``.
    Text(String),
    /// A number.
    Number(serde_json::Number),
    /// `|`
    Pipe,
    /// `(`
    Open,
    /// `)`, with fields behind it.
    Close(Vec<String>),
    /// `,`
    Comma,
    /// `:=`
    Define,
    /// `=`
    Assign,
}

/// Takes a template to pieces.
pub fn pieces(text: &str) -> Result<Vec<Piece>> {
    if text.len() > MAX_TEXT {
        return error(format!("it is longer than {MAX_TEXT} bytes"));
    }
    let mut pieces = Vec::new();
    let (mut rest, mut trim) = (text, false);
    while let Some(at) = rest.find("{{") {
        let (mut before, after) = (&rest[..at], &rest[at + 2..]);
        let inner = match after.strip_prefix("- ").or_else(|| after.strip_prefix("-\n")) {
            Some(inner) => {
                before = before.trim_end();
                inner
            }
            None => after,
        };
        push(&mut pieces, before, trim);
        let Some(end) = end_of_action(inner) else { return error("an action {{ has no end }}") };
        let action = &inner[..end];
        rest = &inner[end + 2..];
        let trimmed = action.strip_suffix('-').filter(|action| action.ends_with(char::is_whitespace));
        trim = trimmed.is_some();
        let action = trimmed.unwrap_or(action).trim();
        if !(action.starts_with("/*") && action.ends_with("*/")) {
            pieces.push(Piece::Action(words(action)?));
        }
    }
    push(&mut pieces, rest, trim);
    Ok(pieces)
}

fn push(pieces: &mut Vec<Piece>, text: &str, trim: bool) {
    let text = if trim { text.trim_start() } else { text };
    if !text.is_empty() {
        pieces.push(Piece::Text(text.to_owned()));
    }
}

/// Where the action's `}}` is; one inside quotes is none.
fn end_of_action(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut at, mut quote) = (0, None);
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(b'"'), b'\\') => at += 1,
            (Some(open), byte) if byte == open => quote = None,
            (None, byte @ (b'"' | b'`')) => quote = Some(byte),
            (None, b'}') if bytes.get(at + 1) == Some(&b'}') => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Takes `.a.b` off the front.
fn fields(rest: &mut &str) -> Vec<String> {
    let mut names = Vec::new();
    while let Some(after) = rest.strip_prefix('.') {
        let end = after.find(|c| !is_name(c)).unwrap_or(after.len());
        if end == 0 {
            break;
        }
        names.push(after[..end].to_owned());
        *rest = &after[end..];
    }
    names
}

fn words(action: &str) -> Result<Vec<Word>> {
    let (mut rest, mut words) = (action, Vec::new());
    loop {
        rest = rest.trim_start();
        let Some(first) = rest.chars().next() else { return Ok(words) };
        let simple = match first {
            '|' => Some(Word::Pipe),
            '(' => Some(Word::Open),
            ',' => Some(Word::Comma),
            '=' => Some(Word::Assign),
            _ => None,
        };
        if let Some(word) = simple {
            words.push(word);
            rest = &rest[1..];
            continue;
        }
        words.push(match first {
            ')' => {
                rest = &rest[1..];
                Word::Close(fields(&mut rest))
            }
            ':' if rest.starts_with(":=") => {
                rest = &rest[2..];
                Word::Define
            }
            '.' => {
                let names = fields(&mut rest);
                if names.is_empty() {
                    rest = &rest[1..];
                }
                Word::Field(names)
            }
            '$' => {
                let end = rest[1..].find(|c| !is_name(c)).map_or(rest.len(), |end| end + 1);
                let name = rest[1..end].to_owned();
                rest = &rest[end..];
                Word::Variable(name, fields(&mut rest))
            }
            '"' | '`' => {
                let (text, after) = quoted(rest)?;
                rest = after;
                Word::Text(text)
            }
            c if c.is_ascii_digit() || c == '-' || c == '+' => {
                let end = rest[1..]
                    .find(|c: char| !(c.is_alphanumeric() || c == '.'))
                    .map_or(rest.len(), |end| end + 1);
                let text = rest[..end].strip_prefix('+').unwrap_or(&rest[..end]);
                let Ok(number) = text.parse() else { return error(format!("{text:?} is no number")) };
                rest = &rest[end..];
                Word::Number(number)
            }
            c if is_name(c) => {
                let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
                let name = rest[..end].to_owned();
                rest = &rest[end..];
                Word::Name(name)
            }
            other => return error(format!("{other:?} has no meaning in an action")),
        });
    }
}

/// A quoted text at the front, and what is behind it.
fn quoted(text: &str) -> Result<(String, &str)> {
    let quote = if text.starts_with('`') { '`' } else { '"' };
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => return Ok((out, &text[at + 1..])),
            '\\' if quote == '"' => match chars.next().map(|(_, c)| c) {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('r') => out.push('\r'),
                Some(c @ ('"' | '\\' | '\'')) => out.push(c),
                _ => return error("a \\ in quotes is followed by n, t, r, \" or \\"),
            },
            c => out.push(c),
        }
    }
    error("a quote has no end")
}
