//! Names: made up for containers and pods that were given none, checked for those that were, and guessed at when one is not found.

use crate::error::{ApiError, Result};
use vial_api::ErrorKind;

/// Random names are an adjective and a noun: easy to say, easy to type.
const ADJECTIVES: [&str; 64] = [
    "amber", "brave", "brisk", "calm", "candid", "cheery", "clever", "copper", "cosmic", "crisp", "daring",
    "deft", "eager", "earnest", "easy", "fair", "fearless", "fleet", "fond", "frosty", "gentle", "gifted",
    "glad", "golden", "handy", "hardy", "hasty", "honest", "humble", "jolly", "keen", "kind", "lively",
    "loyal", "lucid", "lucky", "mellow", "merry", "mighty", "modest", "neat", "nimble", "noble", "patient",
    "placid", "plucky", "polite", "prompt", "proud", "quick", "quiet", "rapid", "ready", "rustic", "serene",
    "silver", "sincere", "smart", "steady", "sunny", "swift", "tidy", "vivid", "witty",
];
const NOUNS: [&str; 64] = [
    "acorn", "badger", "beacon", "beaver", "birch", "bison", "brook", "canyon", "cedar", "comet", "condor",
    "coral", "crane", "dolphin", "dune", "eagle", "falcon", "fern", "finch", "fjord", "fox", "gecko",
    "glacier", "harbor", "hare", "hawk", "heron", "ibis", "island", "jaguar", "juniper", "kestrel", "lagoon",
    "lark", "linden", "lynx", "maple", "marmot", "meadow", "moose", "newt", "oak", "orca", "osprey", "otter",
    "owl", "panda", "pebble", "pine", "plover", "puffin", "quail", "raven", "reef", "river", "robin",
    "salmon", "sparrow", "spruce", "stork", "summit", "tern", "walrus", "willow",
];

/// A name from random bytes: two choose the words, with the third a number makes it unlikely twice.
pub fn from_random(bytes: [u8; 3], number: bool) -> String {
    let adjective = ADJECTIVES[usize::from(bytes[0]) % ADJECTIVES.len()];
    let noun = NOUNS[usize::from(bytes[1]) % NOUNS.len()];
    if number { format!("{adjective}-{noun}-{}", bytes[2]) } else { format!("{adjective}-{noun}") }
}

/// Attempts at a made-up name without a number behind it.
const PLAIN_NAMES: u32 = 4;
/// Attempts in all.
const NAMES: u32 = 32;

/// Inserts something under its name or a made-up one. `insert` says None when a made-up one is taken.
///
/// # Errors
/// Those of `insert`, and when every made-up name is in use.
pub fn insert<T>(wanted: Option<&str>, mut insert: impl FnMut(String) -> Result<Option<T>>) -> Result<T> {
    for attempt in 0..NAMES {
        let name = match wanted {
            Some(name) => name.to_owned(),
            None => {
                let mut bytes = [0; 3];
                let digits = vial_sandbox::ids::random_hex(bytes.len())?;
                for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks(2)) {
                    // Two hexadecimal digits each.
                    *byte = std::str::from_utf8(pair)
                        .ok()
                        .and_then(|t| u8::from_str_radix(t, 16).ok())
                        .unwrap_or(0);
                }
                from_random(bytes, attempt >= PLAIN_NAMES)
            }
        };
        if let Some(inserted) = insert(name)? {
            return Ok(inserted);
        }
    }
    Err(ApiError::new(ErrorKind::Conflict, "every made-up name is in use; give one with --name"))
}

/// Whether a container may be called so: as Docker has it, and not something that reads as an id.
///
/// # Errors
/// A sentence that says what is possible.
pub fn check(name: &str) -> Result<(), String> {
    let fits = (2..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if !fits {
        return Err(format!(
            "{name:?} is not possible as a name: 2 to 64 letters, digits, '_', '.' and '-', beginning with a letter or a digit"
        ));
    }
    if name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(format!("{name:?} is not possible as a name: it would be taken for an id"));
    }
    Ok(())
}

/// The known name that was probably meant, if one is close: at most a third of it differs.
pub fn suggest<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Distances take time in the product of the lengths; nobody mistypes a longer name.
    if wanted.len() > 128 {
        return None;
    }
    let (distance, best) = known
        .into_iter()
        .filter(|name| name.len() <= 256)
        .map(|name| (distance(wanted, name), name))
        .min_by_key(|(distance, _)| *distance)?;
    let near = distance <= (wanted.chars().count().max(3)) / 3;
    (near && distance > 0).then_some(best)
}

/// Letters to insert, drop, change or swap with their neighbour (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, &x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &y) in b.iter().enumerate() {
            let mut cost = (last[j] + usize::from(x != y)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && x == b[j - 1] && a[i - 1] == y {
                cost = cost.min(before[j - 1] + 1);
            }
            row.push(cost);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_names_are_names() {
        for byte in 0..=255u8 {
            check(&from_random([byte, byte.wrapping_mul(7), byte], byte % 2 == 0)).unwrap();
        }
    }

    #[test]
    fn names_are_checked() {
        for good in ["web", "a1", "my_app.v2-3"] {
            check(good).unwrap();
        }
        for bad in ["", "a", "-web", "a b", "../x", "ü2", &"x".repeat(65), &"ab".repeat(32)] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn typos_are_guessed_at() {
        let known = ["busybox:latest", "debian:12", "web", "db"];
        assert_eq!(suggest("busybox:lastet", known), Some("busybox:latest"));
        assert_eq!(suggest("wbe", known), Some("web"));
        assert_eq!(suggest("completely-different", known), None);
        assert_eq!(suggest("web", ["web"]), None, "it exists, so it is not what was meant");
        assert_eq!(suggest("x", []), None);
        assert_eq!(suggest(&"x".repeat(10_000), known), None);
    }
}
