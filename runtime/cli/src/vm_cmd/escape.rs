//! The keys that do not go to the guest.

/// Ctrl-A.
const ESCAPE: u8 = 1;

/// What a person asked for with an escape sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// End the VM.
    End,
}

/// Finds escape sequences in what is typed, also across reads.
#[derive(Debug, Default)]
pub struct Escape {
    pending: bool,
}

impl Escape {
    /// Appends to `guest` what goes there; gives the last thing that was asked for. An unknown sequence goes to the guest.
    pub fn feed(&mut self, typed: &[u8], guest: &mut Vec<u8>) -> Option<Key> {
        let mut asked = None;
        for &byte in typed {
            match (std::mem::take(&mut self.pending), byte) {
                (false, ESCAPE) => self.pending = true,
                (false, byte) | (true, byte @ ESCAPE) => guest.push(byte),
                (true, b'x' | b'X') => asked = Some(Key::End),
                (true, byte) => guest.extend([ESCAPE, byte]),
            }
        }
        asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(reads: &[&[u8]]) -> (Vec<u8>, Option<Key>) {
        let (mut escape, mut guest, mut asked) = (Escape::default(), Vec::new(), None);
        for read in reads {
            asked = escape.feed(read, &mut guest).or(asked);
        }
        (guest, asked)
    }

    #[test]
    fn sequences_work_across_reads() {
        assert_eq!(feed(&[b"ls\r"]), (b"ls\r".to_vec(), None));
        assert_eq!(feed(&[b"a\x01xb"]), (b"ab".to_vec(), Some(Key::End)));
        assert_eq!(feed(&[b"a\x01", b"x"]), (b"a".to_vec(), Some(Key::End)));
        assert_eq!(feed(&[b"\x01\x01x"]), (b"\x01x".to_vec(), None));
        assert_eq!(feed(&[b"\x01", b"\x01", b"x"]), (b"\x01x".to_vec(), None));
        assert_eq!(feed(&[b"\x01e"]), (b"\x01e".to_vec(), None));
        // Ctrl-C is the guest's.
        assert_eq!(feed(&[b"\x03"]), (b"\x03".to_vec(), None));
    }
}
