//! The functions of Go's templates and of Docker's, over JSON; and how values are printed.

use super::eval::is_true;
use super::{Result, error};
use serde_json::Value;
use std::cmp::Ordering;

/// A value as Go prints it.
pub fn print(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".into(),
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(print).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let pairs: Vec<String> =
                map.iter().map(|(key, value)| format!("{key}:{}", print(value))).collect();
            format!("map[{}]", pairs.join(" "))
        }
        other => other.to_string(),
    }
}

/// Calls a function.
pub fn call(name: &str, arguments: Vec<Value>) -> Result<Value> {
    let text = |at: usize| match arguments.get(at) {
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(other) => error(format!("{name} wants a text, not {}", print(other))),
        None => error(format!("{name} wants more arguments")),
    };
    let one = || match arguments.as_slice() {
        [value] => Ok(value),
        _ => error(format!("{name} wants one argument")),
    };
    Ok(match name {
        "json" => serde_json::to_string(one()?).unwrap_or_default().into(),
        "len" => match one()? {
            Value::String(text) => text.len(),
            Value::Array(list) => list.len(),
            Value::Object(map) => map.len(),
            other => return error(format!("{} has no length", print(other))),
        }
        .into(),
        "not" => (!is_true(one()?)).into(),
        // The earlier ones did not decide.
        "and" | "or" => arguments.last().cloned().unwrap_or_default(),
        "index" => index(arguments)?,
        "lower" => text(0)?.to_lowercase().into(),
        "upper" => text(0)?.to_uppercase().into(),
        "title" => title(text(0)?).into(),
        "split" => text(0)?.split(text(1)?).map(Value::from).collect(),
        "join" => join(arguments.first(), text(1)?)?.into(),
        "pad" => pad(text(0)?, arguments.get(1), arguments.get(2)).into(),
        "truncate" => text(0)?.chars().take(count(arguments.get(1))).collect::<String>().into(),
        "print" => arguments.iter().map(print).collect::<String>().into(),
        "println" => (arguments.iter().map(print).collect::<Vec<_>>().join(" ") + "\n").into(),
        "printf" => printf(text(0)?, &arguments[1..])?.into(),
        "eq" => match arguments.split_first() {
            Some((first, rest)) if !rest.is_empty() => rest.iter().any(|other| same(first, other)).into(),
            _ => return error("eq wants two arguments"),
        },
        "ne" | "lt" | "le" | "gt" | "ge" => compare(name, &arguments)?.into(),
        other => return error(format!("there is no function {other}")),
    })
}

fn count(value: Option<&Value>) -> usize {
    value.and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok()).unwrap_or(0)
}

/// Spaces around a text, as far as anybody means it.
fn pad(text: &str, before: Option<&Value>, after: Option<&Value>) -> String {
    const MOST: usize = 1000;
    " ".repeat(count(before).min(MOST)) + text + &" ".repeat(count(after).min(MOST))
}

fn title(text: &str) -> String {
    let mut begin = true;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if begin {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
        begin = c.is_whitespace();
    }
    out
}

fn join(list: Option<&Value>, between: &str) -> Result<String> {
    match list {
        Some(Value::Array(list)) => Ok(list.iter().map(print).collect::<Vec<_>>().join(between)),
        Some(Value::Null) => Ok(String::new()),
        _ => error("join wants a list"),
    }
}

/// `index .Map "key"`, `index .List 0`, several deep. A key that a map does not have is no error, as in Go.
fn index(arguments: Vec<Value>) -> Result<Value> {
    let mut arguments = arguments.into_iter();
    let Some(mut value) = arguments.next() else { return error("index wants something to look into") };
    for key in arguments {
        value = match (value, &key) {
            (Value::Object(mut map), Value::String(key)) => map.remove(key).unwrap_or_default(),
            (Value::Array(mut list), Value::Number(at)) => {
                match at.as_u64().and_then(|at| usize::try_from(at).ok()).filter(|at| *at < list.len()) {
                    Some(at) => list.swap_remove(at),
                    None => return error(format!("there is no item {at} in a list of {}", list.len())),
                }
            }
            (Value::Null, _) => return error("index of nil"),
            (value, key) => {
                return error(format!("{} cannot be looked into by {}", print(&value), print(key)));
            }
        };
    }
    Ok(value)
}

fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        // Numbers of different kinds, 1 and 1.0, are the same.
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

fn compare(name: &str, arguments: &[Value]) -> Result<bool> {
    let [a, b] = arguments else { return error(format!("{name} wants two arguments")) };
    if name == "ne" {
        return Ok(!same(a, b));
    }
    let ordering = match (a, b) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => a.as_f64().zip(b.as_f64()).and_then(|(a, b)| a.partial_cmp(&b)),
    };
    let Some(ordering) = ordering else {
        return error(format!("{} and {} cannot be compared", print(a), print(b)));
    };
    Ok(match name {
        "lt" => ordering == Ordering::Less,
        "le" => ordering != Ordering::Greater,
        "gt" => ordering == Ordering::Greater,
        _ => ordering != Ordering::Less,
    })
}

/// `%s`, `%v`, `%d`, `%q`, `%t`, `%%`, with a width.
fn printf(format: &str, arguments: &[Value]) -> Result<String> {
    let (mut out, mut arguments) = (String::new(), arguments.iter());
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut width = String::new();
        while let Some(c) = chars.next_if(|c| c.is_ascii_digit() || *c == '-') {
            width.push(c);
        }
        let verb = chars.next();
        if verb == Some('%') {
            out.push('%');
            continue;
        }
        let Some(argument) = arguments.next() else { return error("printf wants more arguments") };
        let text = match verb {
            Some('s' | 'v' | 'd' | 't') => print(argument),
            Some('q') => serde_json::to_string(&print(argument)).unwrap_or_default(),
            _ => return error("printf knows %s, %v, %d, %t and %q"),
        };
        let left = width.starts_with('-');
        let width = width.trim_start_matches('-').parse::<usize>().unwrap_or(0).min(1000);
        out += &if left { format!("{text:<width$}") } else { format!("{text:>width$}") };
    }
    Ok(out)
}
