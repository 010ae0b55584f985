//! Standard input on its way: read by a thread, kept until the container has it.

use rustix::event::{PollFd, PollFlags};
use std::collections::VecDeque;
use std::io::Read;
use std::os::fd::AsFd;
use tokio::sync::mpsc;
use vial_api::frame::{INPUT_WINDOW, MAX_PAYLOAD};

/// Standard input that has been read and not yet been taken by the container.
#[derive(Debug, Default)]
pub struct Input {
    /// Offset of the first byte in `bytes`.
    base: u64,
    bytes: VecDeque<u8>,
    /// Offset up to which the current connection has it.
    sent: u64,
    ended: bool,
    end_sent: bool,
    /// A new connection has not said yet where to go on.
    asking: bool,
    /// Others have written before: the first answer says where this begins.
    joining: bool,
}

impl Input {
    /// The input of somebody who comes to a container that runs.
    pub fn joining() -> Self {
        Self { asking: true, joining: true, ..Self::default() }
    }

    /// Whether more may be read.
    pub fn wants_more(&self) -> bool {
        self.bytes.len() < INPUT_WINDOW && !self.ended
    }

    /// More was read; nothing is the end.
    pub fn extend(&mut self, chunk: Option<Vec<u8>>) {
        match chunk {
            Some(chunk) => self.bytes.extend(chunk),
            None => self.ended = true,
        }
    }

    /// The next payload to send, if there is one; empty for the end.
    pub fn next(&mut self) -> Option<Vec<u8>> {
        // `sent` is never below `base` nor above the end, so the difference fits.
        let skip = (self.sent - self.base) as usize;
        let chunk: Vec<u8> = self.bytes.iter().skip(skip).take(MAX_PAYLOAD).copied().collect();
        if chunk.is_empty() {
            let end = self.ended && !self.end_sent;
            self.end_sent |= end;
            return end.then(Vec::new);
        }
        self.sent += chunk.len() as u64;
        Some(chunk)
    }

    /// Whether there is something to send.
    pub fn has_next(&self) -> bool {
        !self.asking && (self.sent < self.base + self.bytes.len() as u64 || (self.ended && !self.end_sent))
    }

    /// The container has everything before this byte.
    pub fn taken(&mut self, offset: u64) {
        let asked = std::mem::take(&mut self.asking);
        if std::mem::take(&mut self.joining) {
            (self.base, self.sent) = (offset, offset);
            return;
        }
        // Others may write too, so that more was taken than was sent from here; what was not sent is kept.
        let known = if asked { self.base + self.bytes.len() as u64 } else { self.sent };
        let offset = offset.min(known);
        let count = offset.saturating_sub(self.base) as usize;
        self.bytes.drain(..count);
        self.base += count as u64;
        self.sent = self.sent.max(self.base);
    }

    /// A new connection has nothing of what the container has not taken, and the container may have taken more than was heard of.
    pub fn rewind(&mut self) {
        self.asking = true;
        self.sent = self.base;
        self.end_sent = false;
    }
}

/// A thread, because reading a terminal or a pipe can't be cancelled; the process does not wait for it.
pub fn read_stdin() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        loop {
            let mut buffer = vec![0; MAX_PAYLOAD];
            match stdin.read(&mut buffer) {
                Ok(count) if count > 0 => {
                    buffer.truncate(count);
                    if sender.blocking_send(buffer).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    wait_until(&stdin, PollFlags::IN);
                }
                // An unreadable standard input has ended too.
                Ok(_) | Err(_) => return,
            }
        }
    });
    receiver
}

/// Waits for a descriptor that another process, with which it is shared, made non-blocking.
pub fn wait_until(fd: impl AsFd, ready: PollFlags) {
    // Interrupted: whoever called tries again.
    let _ = rustix::event::poll(&mut [PollFd::new(&fd, ready)], None);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_who_joins_loses_nothing_of_what_was_typed_meanwhile() {
        let mut input = Input::joining();
        input.extend(Some(b"abc".to_vec()));
        assert!(!input.has_next());
        input.taken(1000);
        assert_eq!(input.next(), Some(b"abc".to_vec()));
        input.extend(Some(b"d".to_vec()));
        input.taken(5000);
        assert_eq!(input.next(), Some(b"d".to_vec()), "what others wrote does not count");
    }

    #[test]
    fn input_is_sent_again_from_where_it_was_taken() {
        let mut input = Input::default();
        input.bytes.extend(b"abcdef");
        assert_eq!(input.next(), Some(b"abcdef".to_vec()));
        assert_eq!(input.next(), None);
        input.taken(4);
        input.rewind();
        input.ended = true;
        assert!(!input.has_next(), "where to go on is not known yet");
        input.taken(5);
        assert!(input.has_next());
        assert_eq!(input.next(), Some(b"f".to_vec()));
        assert_eq!(input.next(), Some(vec![]));
        assert_eq!(input.next(), None);
        input.taken(u64::MAX);
        assert!(input.bytes.is_empty());
        input.rewind();
        assert_eq!(input.next(), Some(vec![]), "the end is said again on a new connection");
    }
}
