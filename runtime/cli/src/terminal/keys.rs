//! The keys that leave a container: Docker's syntax, and finding them in what is typed, also across reads.

/// Keys that leave a container while it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys(Vec<u8>);

impl Default for DetachKeys {
    /// Ctrl-P, Ctrl-Q.
    fn default() -> Self {
        Self(vec![0x10, 0x11])
    }
}

impl std::str::FromStr for DetachKeys {
    type Err = String;

    /// Reads Docker's syntax: keys parted by commas, each a character or `ctrl-` and one of `@`, `a` to `z`, `[`, `\`, `]`, `^`, `_`,
    /// or `DEL`. Nothing is the default.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        text.split(',').map(key).collect::<Result<_, _>>().map(Self)
    }
}

fn key(name: &str) -> Result<u8, String> {
    let control = name.strip_prefix("ctrl-").map(str::as_bytes);
    match (name.as_bytes(), control) {
        (&[key], _) if key.is_ascii() => Ok(key),
        (b"DEL", _) => Ok(127),
        (_, Some(&[key @ (b'@' | b'a'..=b'z' | b'['..=b'_')])) => Ok(key & 0x1f),
        _ => Err(format!(
            "{name:?} is no key: a character, ctrl- and one of @ a-z [ \\ ] ^ _, or DEL, several parted by commas as in ctrl-p,ctrl-q"
        )),
    }
}

/// Finds the keys in what is typed. Bytes that may be their beginning are held back until it is known.
#[derive(Debug)]
pub struct Matcher {
    keys: Vec<u8>,
    /// How many of the keys were typed last.
    held: usize,
}

impl Matcher {
    /// Looks for these.
    pub fn new(keys: DetachKeys) -> Self {
        Self { keys: keys.0, held: 0 }
    }

    /// Appends to `pass` what is for the container; true when the keys were typed, and then the rest of `typed` is nobody's.
    pub fn feed(&mut self, typed: &[u8], pass: &mut Vec<u8>) -> bool {
        for &byte in typed {
            while self.held > 0 && self.keys[self.held] != byte {
                // What is held can still end in a shorter beginning of the keys.
                let shorter =
                    (0..self.held).rev().find(|n| self.keys[..self.held].ends_with(&self.keys[..*n]));
                let shorter = shorter.unwrap_or(0);
                pass.extend_from_slice(&self.keys[..self.held - shorter]);
                self.held = shorter;
            }
            if self.keys[self.held] != byte {
                pass.push(byte);
                continue;
            }
            self.held += 1;
            if self.held == self.keys.len() {
                self.held = 0;
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_are_written_as_dockers() {
        let keys = |text: &str| text.parse::<DetachKeys>().map(|keys| keys.0);
        assert_eq!(keys(""), Ok(vec![16, 17]));
        assert_eq!(keys("ctrl-p,ctrl-q"), Ok(vec![16, 17]));
        assert_eq!(keys("a,B,ctrl-@,ctrl-[,ctrl-\\,ctrl-_,DEL"), Ok(vec![b'a', b'B', 0, 27, 28, 31, 127]));
        for bad in ["ctrl-", "ctrl-A", "ctrl-1", "ab", "a,", ",", "é", "del", "ctrl-ab"] {
            assert!(keys(bad).is_err(), "{bad}");
        }
    }

    fn feed(keys: &[u8], reads: &[Vec<u8>]) -> (Vec<u8>, bool) {
        let mut matcher = Matcher::new(DetachKeys(keys.to_vec()));
        let mut pass = Vec::new();
        for read in reads {
            if matcher.feed(read, &mut pass) {
                return (pass, true);
            }
        }
        (pass, false)
    }

    #[test]
    fn what_only_begins_like_the_keys_is_passed_on() {
        let text =
            |reads: &[&str]| feed(b"aab", &reads.iter().map(|r| r.as_bytes().to_vec()).collect::<Vec<_>>());
        assert_eq!(text(&["xaaab"]), (b"xa".to_vec(), true));
        assert_eq!(text(&["a", "a", "a", "c"]), (b"aaac".to_vec(), false));
        assert_eq!(text(&["xaa"]), (b"x".to_vec(), false));
        assert_eq!(text(&["aab", "more"]), (b"".to_vec(), true));
    }

    proptest! {
        /// However the typing is split: what comes before the first whole sequence is passed on, or all but what may be its beginning.
        #[test]
        fn splitting_changes_nothing(
            keys in proptest::collection::vec(0u8..3, 1..5),
            reads in proptest::collection::vec(proptest::collection::vec(0u8..3, 0..6), 0..8),
        ) {
            let all = reads.concat();
            let found = all.windows(keys.len()).position(|window| window == keys);
            let held = (0..keys.len()).rev().find(|n| all.ends_with(&keys[..*n])).unwrap_or(0);
            let passed = &all[..found.unwrap_or(all.len() - held)];
            prop_assert_eq!(feed(&keys, &reads), (passed.to_vec(), found.is_some()));
        }
    }
}
