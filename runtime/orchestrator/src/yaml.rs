//! Bodies in YAML: events of a streaming parser become the same values that JSON makes, within the same bounds.
//!
//! Plain scalars mean what they do to Kubernetes' own reader (go-yaml with its words and octals of YAML 1.1): `mode: 0644` is 420.

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};
use serde_json::{Map, Number, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Deeper than any object goes (as serde_json's).
const MAX_DEPTH: usize = 128;
/// What aliases copy, altogether, in bytes and values: a few lines can say a billion.
const MAX_COPIED: usize = 1 << 20;
/// Fields named twice that are told.
const MAX_DUPLICATES: usize = 16;

/// A list or a map that is being read.
enum Open {
    List(Vec<Value>),
    /// With the key whose value is next.
    Map(Map<String, Value>, Option<String>),
}

struct Reader {
    open: Vec<(Open, usize)>,
    anchors: BTreeMap<usize, Value>,
    copied: usize,
    done: Option<Value>,
    duplicates: Vec<String>,
}

/// Reads one document; the value, and paths of fields that are there more than once, of which the last counts.
///
/// # Errors
/// It is no YAML, more than one document, too deep, or swollen by aliases.
pub(crate) fn parse(text: &str) -> Result<(Value, Vec<String>), String> {
    let mut reader =
        Reader { open: Vec::new(), anchors: BTreeMap::new(), copied: 0, done: None, duplicates: Vec::new() };
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        match event.map_err(|error| error.to_string())?.0 {
            Event::DocumentStart(_) => {
                documents += 1;
                if documents > 1 {
                    return Err("there is more than one document: send each in a request of its own".into());
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                if let Some(key) = reader.key(&text)? {
                    if anchor != 0 {
                        reader.anchors.insert(anchor, key.into());
                    }
                    continue;
                }
                let value = scalar(&text, style, tag.as_deref())?;
                reader.put(value, anchor)?;
            }
            Event::SequenceStart(anchor, _) => reader.begin(Open::List(Vec::new()), anchor)?,
            Event::MappingStart(anchor, _) => reader.begin(Open::Map(Map::new(), None), anchor)?,
            Event::SequenceEnd | Event::MappingEnd => reader.end()?,
            Event::Alias(anchor) => reader.alias(anchor)?,
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
    }
    Ok((reader.done.unwrap_or_default(), reader.duplicates))
}

impl Reader {
    /// Takes a scalar as a key, if one is due.
    fn key(&mut self, text: &str) -> Result<Option<String>, String> {
        let Some((Open::Map(map, key @ None), _)) = self.open.last_mut() else { return Ok(None) };
        if text == "<<" {
            return Err("merge keys (<<) are not understood: write the fields out".into());
        }
        let is_double = map.contains_key(text);
        *key = Some(text.to_owned());
        if is_double && self.duplicates.len() < MAX_DUPLICATES {
            let path = self.path();
            self.duplicates.push(path);
        }
        Ok(Some(text.to_owned()))
    }

    /// Where it is: `spec.containers[0].name`.
    fn path(&self) -> String {
        let mut path = String::new();
        for (open, _) in &self.open {
            match open {
                Open::List(items) => path.push_str(&format!("[{}]", items.len())),
                Open::Map(_, key) => {
                    let dot = if path.is_empty() { "" } else { "." };
                    path.push_str(&format!("{dot}{}", key.as_deref().unwrap_or_default()));
                }
            }
        }
        path
    }

    fn begin(&mut self, open: Open, anchor: usize) -> Result<(), String> {
        if matches!(self.open.last(), Some((Open::Map(_, None), _))) {
            return Err("a key must be a simple value".into());
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(format!("it is deeper than {MAX_DEPTH} levels"));
        }
        self.open.push((open, anchor));
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        let (open, anchor) = self.open.pop().ok_or("an end without a beginning")?;
        let value = match open {
            Open::List(items) => items.into(),
            Open::Map(map, _) => map.into(),
        };
        self.put(value, anchor)
    }

    fn put(&mut self, value: Value, anchor: usize) -> Result<(), String> {
        if anchor != 0 {
            self.charge(&value)?;
            self.anchors.insert(anchor, value.clone());
        }
        match self.open.last_mut() {
            None => self.done = Some(value),
            Some((Open::List(items), _)) => items.push(value),
            Some((Open::Map(map, key), _)) => {
                let key = key.take().ok_or("a key must be a simple value")?;
                map.insert(key, value);
            }
        }
        Ok(())
    }

    fn alias(&mut self, anchor: usize) -> Result<(), String> {
        // Also what stands for one that is not complete yet, and would hold itself.
        let value = self.anchors.get(&anchor).cloned().ok_or("an alias of nothing, or of what it is in")?;
        if let Some((Open::Map(_, None), _)) = self.open.last() {
            let key = value.as_str().ok_or("a key must be a simple value")?.to_owned();
            return self.key(&key).map(drop);
        }
        self.charge(&value)?;
        if self.open.len() + depth(&value) > MAX_DEPTH {
            return Err(format!("it is deeper than {MAX_DEPTH} levels"));
        }
        self.put(value, 0)
    }

    /// A copy is made: there is room for so much.
    fn charge(&mut self, value: &Value) -> Result<(), String> {
        self.copied = self.copied.saturating_add(size(value));
        if self.copied > MAX_COPIED {
            return Err(format!("anchors and aliases stand for more than {MAX_COPIED} bytes"));
        }
        Ok(())
    }
}

/// Texts, and 32 bytes for each value. What is measured is no larger than the body or what was measured before.
fn size(value: &Value) -> usize {
    32 + match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(fields) => fields.iter().map(|(key, value)| key.len() + size(value)).sum(),
        _ => 0,
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    let is_text = match tag {
        None => style != ScalarStyle::Plain,
        Some(tag) if tag.handle == "!" && tag.suffix.is_empty() => true,
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => true,
        Some(tag)
            if tag.is_yaml_core_schema()
                && matches!(tag.suffix.as_str(), "int" | "float" | "bool" | "null") =>
        {
            false
        }
        Some(tag) => return Err(format!("the tag {tag} is not understood")),
    };
    Ok(if is_text { text.into() } else { plain(text) })
}

/// A scalar without quotes.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" | "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => {
            return true.into();
        }
        "false" | "False" | "FALSE" | "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            return false.into();
        }
        _ => {}
    }
    number(text).map_or_else(|| text.into(), Value::Number)
}

fn number(text: &str) -> Option<Number> {
    let text: Cow<'_, str> = if text.contains('_') { text.replace('_', "").into() } else { text.into() };
    let digits = text.strip_prefix(['+', '-']).unwrap_or(&text);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let radix = |prefix: &str, radix: u32| {
        let digits = digits.strip_prefix(prefix)?;
        let magnitude =
            i64::from_str_radix(Some(digits).filter(|digits| !digits.starts_with(['+', '-']))?, radix)
                .ok()?;
        Some(Number::from(if text.starts_with('-') { -magnitude } else { magnitude }))
    };
    for (prefix, base) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if digits.starts_with(prefix) {
            return radix(prefix, base);
        }
    }
    if digits.bytes().all(|digit| digit.is_ascii_digit()) {
        if digits.len() > 1
            && digits.starts_with('0')
            && let Some(octal) = radix("0", 8)
        {
            return Some(octal);
        }
        let text = text.strip_prefix('+').unwrap_or(&text);
        return text.parse::<i64>().map(Number::from).or_else(|_| text.parse::<u64>().map(Number::from)).ok();
    }
    let is_float =
        digits.bytes().all(|c| c.is_ascii_digit() || matches!(c, b'.' | b'e' | b'E' | b'+' | b'-'));
    let value: f64 = text.parse().ok().filter(|_| is_float)?;
    // As in JSON from Go, 1e3 and 1.0 may stand for a whole number.
    const EXACT: f64 = (1u64 << 53) as f64;
    if value.fract() == 0.0 && value.abs() < EXACT {
        Some((value as i64).into())
    } else {
        Number::from_f64(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn a_manifest_is_what_kubernetes_reads() {
        let text = "# a comment\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a # here\n  labels: {x: 'yes', y: \"1\"}\n\
            data:\n  script: |\n    one\n    two\n  folded: >-\n    a\n    b\n  1: x\nlist:\n- 0644\n- 0x1F\n- yes\n- ~\n- 1_000\n- 2.5\n- 1e3\n- 0o17\n\
            - 2001-01-01\n- 1.2.3\n- 5m\n- !!str 5\n- -7\n- .5\n- 089\n- '-'\n- +5\n";
        let expected = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "labels": {"x": "yes", "y": "1"}},
            "data": {"script": "one\ntwo\n", "folded": "a b", "1": "x"},
            "list": [420, 31, true, null, 1000, 2.5, 1000, 15, "2001-01-01", "1.2.3", "5m", "5", -7, 0.5, 89, "-", 5]});
        assert_eq!(parse(text), Ok((expected, Vec::new())));
        assert_eq!(parse(""), Ok((Value::Null, Vec::new())));
    }

    #[test]
    fn aliases_are_copied_and_bombs_refused() {
        let text = "a: &x {b: [1, 2]}\nc: *x\n&k key: 1\nd: *k\n";
        assert_eq!(
            parse(text).unwrap().0,
            json!({"a": {"b": [1, 2]}, "c": {"b": [1, 2]}, "key": 1, "d": "key"})
        );
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        assert!(parse(&bomb).unwrap_err().contains("stand for more"));
        let mut tower = String::from("a0: &a0 [x]\n");
        for level in 1..200 {
            tower.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
        }
        assert!(parse(&tower).unwrap_err().contains("deeper"));
        assert!(parse("a: &a [*a]").is_err());
    }

    #[test]
    fn mistakes_are_told() {
        assert_eq!(parse("a: 1\nb: {c: 1, c: 2}\n").unwrap().1, ["b.c"]);
        for bad in [
            "a: 1\n---\nb: 2\n",
            "a: [1",
            "{a: 1}}",
            "? [a]\n: b\n",
            "<<: {a: 1}\n",
            "a: !!binary aGk=\n",
            "a: *x\n",
            "a: b: c",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse(&"[".repeat(100_000)).is_err() && parse(&"- ".repeat(100_000)).is_err());
        assert!(
            parse(&(0..3000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect::<String>()).is_err()
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in r"[\[\]{}:,&*!|>?'\x22 \n#a-c0-9.~-]{0,80}") {
            let _ = parse(&text);
        }

        #[test]
        fn json_is_yaml(text in r#"[\[\]{}",:a-c0-9 ]{0,30}"#) {
            // Where both read it, and YAML does not see another number in a text.
            if let (Ok(json), Ok((yaml, _))) = (serde_json::from_str::<Value>(&text), parse(&text)) {
                prop_assert_eq!(json, yaml);
            }
        }
    }
}
