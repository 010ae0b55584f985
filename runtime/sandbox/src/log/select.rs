//! Which part of a log somebody wants to see: the last lines, those of a time, each with its time. A pure function of what is read, line by line;
//! records are not lines, so a line is judged by the record that its first byte is in.

use super::format::Stream;
use super::reader::Item;
use std::time::{Duration, UNIX_EPOCH};

/// RFC 3339 in UTC, as Docker's logs have it; what a torn record holds is no time that overflows.
fn rfc3339(ms: u64) -> String {
    const LAST: u64 = 253_402_300_799_999;
    let time = vial_image::rfc3339(UNIX_EPOCH + Duration::from_millis(ms.min(LAST)));
    format!("{}.{:03}Z", time.trim_end_matches('Z'), ms % 1000)
}

/// What is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Not what is older, in milliseconds since the epoch.
    pub since_ms: Option<u64>,
    /// Not what is newer.
    pub until_ms: Option<u64>,
    /// Not the first so many lines of these.
    pub skip: u64,
    /// Each line with its time in front (RFC 3339).
    pub timestamps: bool,
}

/// The place in a log of one who selects.
#[derive(Debug, Clone, Default)]
pub struct Selector {
    wanted: Wanted,
    /// Lines of the wanted time so far.
    lines: u64,
    streams: [Line; 2],
}

/// A stream's current line.
#[derive(Debug, Clone, Copy, Default)]
struct Line {
    /// Whether its first byte has come and its last has not.
    begun: bool,
    shown: bool,
}

impl Selector {
    /// One at the beginning of a log.
    pub fn new(wanted: Wanted) -> Self {
        Self { wanted, ..Self::default() }
    }

    /// How many lines there were of the wanted time, shown or not.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// What is to be seen of an item; none when that is nothing.
    pub fn pick(&mut self, item: Item) -> Option<Item> {
        let Item::Data { stream, offset, time_ms, bytes } = item else {
            // What is missing is missing from what is shown, as far as anybody knows.
            return Some(item).filter(|_| self.lines >= self.wanted.skip);
        };
        let wanted = self.wanted;
        let in_time = wanted.since_ms.is_none_or(|since| time_ms >= since)
            && wanted.until_ms.is_none_or(|until| time_ms <= until);
        let mut out = Vec::new();
        let line = &mut self.streams[usize::from(stream == Stream::Stderr)];
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if !line.begun {
                line.begun = true;
                self.lines += u64::from(in_time);
                line.shown = in_time && self.lines > wanted.skip;
                if line.shown && wanted.timestamps {
                    out.extend_from_slice(rfc3339(time_ms).as_bytes());
                    out.push(b' ');
                }
            }
            if line.shown {
                out.extend_from_slice(part);
            }
            line.begun = !part.ends_with(b"\n");
        }
        (!out.is_empty()).then_some(Item::Data { stream, offset, time_ms, bytes: out })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn data(stream: Stream, time_ms: u64, text: &str) -> Item {
        Item::Data { stream, offset: 0, time_ms, bytes: text.into() }
    }

    fn shown(wanted: Wanted, items: &[Item]) -> String {
        let mut selector = Selector::new(wanted);
        let picked = items.iter().cloned().filter_map(|item| match selector.pick(item) {
            Some(Item::Data { bytes, .. }) => Some(String::from_utf8(bytes).unwrap()),
            _ => None,
        });
        picked.collect()
    }

    #[test]
    fn lines_are_chosen_whole() {
        use Stream::{Stderr, Stdout};
        let items = [
            data(Stdout, 10, "one\ntw"),
            data(Stderr, 20, "bad\n"),
            data(Stdout, 30, "o\nthree"),
            data(Stdout, 40, "\n"),
        ];
        assert_eq!(shown(Wanted::default(), &items), "one\ntwbad\no\nthree\n");
        assert_eq!(shown(Wanted { skip: 2, ..Wanted::default() }, &items), "bad\nthree\n");
        // "two" began at 10, so it is not of the time from 20 on.
        assert_eq!(shown(Wanted { since_ms: Some(20), ..Wanted::default() }, &items), "bad\nthree\n");
        assert_eq!(shown(Wanted { until_ms: Some(10), ..Wanted::default() }, &items), "one\ntwo\n");
        let times = shown(Wanted { timestamps: true, skip: 3, ..Wanted::default() }, &items);
        assert_eq!(times, "1970-01-01T00:00:00.030Z three\n");
    }

    proptest! {
        /// However a text is cut into records, the same lines are shown, and skipping all but n leaves the last n.
        #[test]
        fn cuts_do_not_matter(text in "[ab\n]{0,60}", cut in 1usize..7, last in 0u64..9) {
            let items: Vec<Item> = text.as_bytes().chunks(cut)
                .map(|part| data(Stream::Stdout, 1, std::str::from_utf8(part).unwrap())).collect();
            let mut all = Selector::new(Wanted::default());
            for item in items.iter().cloned() {
                all.pick(item);
            }
            let lines: Vec<&str> = text.split_inclusive('\n').collect();
            prop_assert_eq!(all.lines(), lines.len() as u64);
            let skip = all.lines().saturating_sub(last);
            let expected: String = lines[skip as usize..].concat();
            prop_assert_eq!(shown(Wanted { skip, ..Wanted::default() }, &items), expected);
        }
    }
}
