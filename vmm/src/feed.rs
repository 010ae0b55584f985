//! What a VM process tells of its life, for readers that come and go: the last lines are kept, and whoever reads too slowly is told how many
//! he has missed. Readers keep a number and nothing else, so none of them costs the VMM memory or time.

use crate::lock::lock;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use vmm_sys_util::eventfd::EventFd;

/// Lines that are kept.
const MAX_LINES: usize = 256;
/// Bytes of lines that are kept.
const MAX_BYTES: usize = 64 << 10;
/// Readers at a time.
pub const MAX_READERS: usize = 4;

/// The last lines, each with a number.
#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<Vec<u8>>,
    // Number of the first that is still there.
    first: u64,
    bytes: usize,
    ended: bool,
}

/// What a reader finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// One or more lines.
    Lines(Vec<u8>),
    /// Nothing yet.
    Nothing,
    /// Nothing any more.
    End,
}

impl Ring {
    /// Adds a line, with its end; the last one is `last`.
    fn push(&mut self, line: &[u8], last: bool) {
        if self.ended {
            return;
        }
        self.ended = last;
        self.bytes += line.len();
        self.lines.push_back(line.to_vec());
        while self.lines.len() > MAX_LINES || (self.bytes > MAX_BYTES && self.lines.len() > 1) {
            let gone = self.lines.pop_front().map_or(0, |line| line.len());
            self.bytes -= gone;
            self.first += 1;
        }
    }

    /// Lines from number `at` on, which is moved behind them: about `room` bytes, one line at least.
    fn read(&self, at: &mut u64, room: usize) -> Next {
        let mut bytes = Vec::new();
        if *at < self.first {
            bytes = format!("{{\"event\":\"missed\",\"lines\":{}}}\n", self.first - *at).into_bytes();
            *at = self.first;
        }
        let skip = usize::try_from(*at - self.first).unwrap_or(usize::MAX);
        for line in self.lines.iter().skip(skip) {
            if !bytes.is_empty() && bytes.len() + line.len() > room {
                break;
            }
            bytes.extend_from_slice(line);
            *at += 1;
        }
        match bytes.is_empty() {
            false => Next::Lines(bytes),
            true if self.ended => Next::End,
            true => Next::Nothing,
        }
    }
}

/// The lines, shared by who writes and who reads.
#[derive(Debug, Clone, Default)]
pub struct Feed(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    ring: Mutex<Ring>,
    bell: Mutex<Option<Arc<EventFd>>>,
    readers: AtomicUsize,
}

impl Feed {
    /// From now on `bell` is rung when there is something new.
    pub fn ring_at(&self, bell: Arc<EventFd>) {
        *lock(&self.0.bell) = Some(bell);
    }

    /// Adds a line, with its end; nothing follows the `last` one.
    pub fn push(&self, line: &[u8], last: bool) {
        lock(&self.0.ring).push(line, last);
        if let Some(bell) = &*lock(&self.0.bell) {
            // Fails only when nobody has read 2⁶⁴ − 2 of them: then the reader is awake anyway.
            let _ = bell.write(1);
        }
    }

    /// A reader from the first line that is still there on; none if there are too many.
    pub fn reader(&self) -> Option<Reader> {
        let more = |readers| (readers < MAX_READERS).then_some(readers + 1);
        self.0.readers.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok()?;
        Some(Reader { feed: self.clone(), at: 0 })
    }
}

/// One who reads.
#[derive(Debug)]
pub struct Reader {
    feed: Feed,
    at: u64,
}

impl Reader {
    /// What is new, about `room` bytes of it.
    pub fn next(&mut self, room: usize) -> Next {
        lock(&self.feed.0.ring).read(&mut self.at, room)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.feed.0.readers.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(next: Next) -> String {
        match next {
            Next::Lines(bytes) => String::from_utf8(bytes).unwrap(),
            other => panic!("{other:?} has no lines"),
        }
    }

    #[test]
    fn everyone_reads_everything_from_the_start_to_the_end() {
        let feed = Feed::default();
        feed.push(b"one\n", false);
        let mut reader = feed.reader().unwrap();
        feed.push(b"two\n", false);
        assert_eq!(text(reader.next(100)), "one\ntwo\n");
        assert_eq!(reader.next(100), Next::Nothing);
        feed.push(b"three\n", true);
        feed.push(b"too late\n", false);
        assert_eq!(text(feed.reader().unwrap().next(5)), "one\n");
        assert_eq!(text(reader.next(1)), "three\n");
        assert_eq!(reader.next(100), Next::End);
    }

    #[test]
    fn there_are_so_many_readers_and_no_more() {
        let feed = Feed::default();
        let mut readers: Vec<_> = (0..MAX_READERS).map(|_| feed.reader().unwrap()).collect();
        assert!(feed.reader().is_none());
        readers.pop();
        assert!(feed.reader().is_some());
    }

    #[test]
    fn a_slow_reader_is_told_what_he_missed() {
        let feed = Feed::default();
        let mut reader = feed.reader().unwrap();
        (0..MAX_LINES + 7).for_each(|number| feed.push(format!("{number}\n").as_bytes(), false));
        assert!(text(reader.next(1)).starts_with("{\"event\":\"missed\",\"lines\":7}\n"));
        assert_eq!(text(reader.next(1)), "7\n");
    }

    proptest! {
        #[test]
        fn what_is_kept_is_bounded_and_every_line_is_read_or_counted(
            lines in proptest::collection::vec((1usize..3000, any::<bool>()), 0..600),
            room in 1usize..10_000,
        ) {
            let (mut ring, mut at, mut read, mut missed) = (Ring::default(), 0, 0u64, 0u64);
            let count = lines.len() as u64;
            let mut take = |ring: &Ring| {
                let Next::Lines(bytes) = ring.read(&mut at, room) else { return false };
                for line in String::from_utf8(bytes).unwrap().lines() {
                    match line.strip_prefix("{\"event\":\"missed\",\"lines\":") {
                        Some(rest) => missed += rest.trim_end_matches('}').parse::<u64>().unwrap(),
                        None => read += 1,
                    }
                }
                true
            };
            for (len, reads) in lines {
                ring.push(&[vec![b'x'; len], vec![b'\n']].concat(), false);
                prop_assert!(ring.lines.len() <= MAX_LINES && ring.bytes <= MAX_BYTES + 3001);
                if reads {
                    take(&ring);
                }
            }
            while take(&ring) {}
            prop_assert_eq!(read + missed, count);
        }
    }
}
