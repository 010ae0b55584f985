//! What a process has written and the host has not yet safely noted: bytes with absolute offsets, bounded.

/// Size at which a ring starts; it doubles as needed, so that a silent stream costs almost nothing.
const FIRST: usize = 4 << 10;

/// A bounded buffer of the bytes `start()..end()` of a stream.
#[derive(Debug)]
pub struct Ring {
    /// Length zero or a power of two.
    bytes: Vec<u8>,
    limit: usize,
    start: u64,
    end: u64,
}

impl Ring {
    /// An empty ring that will hold at most `limit` bytes, a power of two and at least 4 KiB.
    pub fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), limit, start: 0, end: 0 }
    }

    /// Offset of the oldest byte kept.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Offset behind the newest byte.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// How many bytes are kept.
    fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// How many more bytes fit.
    pub fn room(&self) -> usize {
        self.limit - self.len()
    }

    fn place(&self, offset: u64) -> usize {
        (offset as usize) & (self.bytes.len() - 1)
    }

    /// Free memory to read into, contiguous; empty only when the ring is full. [`Ring::commit`] says how much was used.
    pub fn spare(&mut self) -> &mut [u8] {
        if self.len() == self.bytes.len() && self.bytes.len() < self.limit {
            self.grow();
        }
        if self.room() == 0 {
            return &mut [];
        }
        let (from, kept) = (self.place(self.end), self.len());
        let to = if kept == 0 || from >= self.place(self.start) {
            self.bytes.len()
        } else {
            self.place(self.start)
        };
        &mut self.bytes[from..to]
    }

    fn grow(&mut self) {
        let mut larger = Ring {
            bytes: vec![0; (self.bytes.len() * 2).clamp(FIRST, self.limit)],
            limit: self.limit,
            start: self.start,
            end: self.start,
        };
        while larger.end < self.end {
            let from = self.peek(larger.end);
            let to = larger.spare();
            let n = from.len().min(to.len());
            to[..n].copy_from_slice(&from[..n]);
            larger.commit(n);
        }
        *self = larger;
    }

    /// Takes the first `n` bytes of what [`Ring::spare`] gave into the stream.
    pub fn commit(&mut self, n: usize) {
        debug_assert!(n <= self.room());
        self.end += n as u64;
    }

    /// The bytes from `offset` on, as far as they lie in one piece. Empty outside `start()..end()`.
    pub fn peek(&self, offset: u64) -> &[u8] {
        if offset < self.start || offset >= self.end {
            return &[];
        }
        let from = self.place(offset);
        let n = ((self.end - offset) as usize).min(self.bytes.len() - from);
        &self.bytes[from..from + n]
    }

    /// Forgets everything before `offset`. False when the offset is beyond what the stream has; an old one changes nothing.
    pub fn forget(&mut self, offset: u64) -> bool {
        if offset > self.end {
            return false;
        }
        self.start = self.start.max(offset);
        true
    }

    /// Gives the memory back when nothing is kept in it.
    pub fn shrink(&mut self) {
        if self.len() == 0 {
            self.bytes = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Write(usize),
        Forget(u64),
        Shrink,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0_usize..9000).prop_map(Step::Write),
            3 => (0_u64..30_000).prop_map(Step::Forget),
            1 => Just(Step::Shrink),
        ];
        proptest::collection::vec(step, 0..60)
    }

    fn write(ring: &mut Ring, mut next: impl FnMut() -> u8, mut n: usize) -> usize {
        let mut written = 0;
        while n > 0 {
            let spare = ring.spare();
            let piece = spare.len().min(n);
            if piece == 0 {
                break;
            }
            spare[..piece].fill_with(&mut next);
            ring.commit(piece);
            (written, n) = (written + piece, n - piece);
        }
        written
    }

    proptest! {
        /// The model is the whole stream in a Vec; the ring must show the same bytes at the same offsets.
        #[test]
        fn behaves_like_the_whole_stream(steps in steps()) {
            let limit = 16 << 10;
            let mut ring = Ring::new(limit);
            let (mut stream, mut start) = (Vec::<u8>::new(), 0_u64);
            for step in steps {
                match step {
                    Step::Write(n) => {
                        let before = stream.len();
                        let fits = limit - (stream.len() - start as usize);
                        let mut produced = Vec::new();
                        let written = write(&mut ring, || {
                            let byte = ((before + produced.len()) % 251) as u8;
                            produced.push(byte);
                            byte
                        }, n);
                        prop_assert_eq!(written, n.min(fits));
                        stream.extend(produced);
                    }
                    Step::Forget(offset) => {
                        let known = offset <= stream.len() as u64;
                        prop_assert_eq!(ring.forget(offset), known);
                        if known { start = start.max(offset); }
                    }
                    Step::Shrink => ring.shrink(),
                }
                prop_assert_eq!((ring.start(), ring.end()), (start, stream.len() as u64));
                let (mut seen, mut at) = (Vec::new(), start);
                while at < ring.end() {
                    let piece = ring.peek(at);
                    prop_assert!(!piece.is_empty());
                    seen.extend_from_slice(piece);
                    at += piece.len() as u64;
                }
                prop_assert_eq!(&seen[..], &stream[start as usize..]);
                prop_assert!(ring.bytes.len() <= limit);
            }
        }
    }

    #[test]
    fn a_silent_stream_has_no_memory() {
        assert_eq!(Ring::new(1 << 18).bytes.capacity(), 0);
    }
}
