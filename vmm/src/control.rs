//! The control socket: one JSON request a line, one JSON reply a line.
//!
//! Requests become [`Command`]s for the machine's loop. Replies go out through the connection that the request came in on,
//! when they are known: a pause is answered once every vCPU stands still.

use crate::api::control::{MAX_LINE, Reply, Request};
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::Sender;

/// Connections at a time; more are closed at once. A daemon has one, a person's tool another.
const MAX_CONNECTIONS: usize = 16;

/// A request and where its reply goes.
#[derive(Debug)]
pub struct Command {
    /// What is asked for.
    pub request: Request,
    /// Who asks.
    pub reply: ReplyTo,
}

/// A connection that waits for a reply.
#[derive(Debug)]
pub struct ReplyTo(UnixStream);

impl ReplyTo {
    /// Sends the reply. One who does not read his replies loses them: the VMM waits for nobody.
    pub fn send(&self, reply: &Reply) {
        let mut line = serde_json::to_vec(reply).expect("replies have only strings and numbers");
        line.push(b'\n');
        if (&self.0).write_all(&line).is_err() {
            // Gone, or not reading; either way it sees the end of the connection and not half a line.
            let _ = self.0.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Sends a refusal.
    pub fn refuse(&self, why: impl Into<String>) {
        self.send(&Reply::Fault { fault_message: why.into() });
    }
}

/// Collects bytes to lines of bounded length.
#[derive(Debug, Default)]
struct Lines(Vec<u8>);

#[derive(Debug, PartialEq, Eq)]
struct LineTooLong;

impl Lines {
    /// Adds `bytes` and takes out the lines that are complete, without their ends.
    fn push(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, LineTooLong> {
        self.0.extend_from_slice(bytes);
        let mut lines = Vec::new();
        while let Some(end) = self.0.iter().position(|byte| *byte == b'\n') {
            let rest = self.0.split_off(end + 1);
            let mut line = std::mem::replace(&mut self.0, rest);
            line.pop();
            if line.len() > MAX_LINE {
                return Err(LineTooLong);
            }
            lines.push(line);
        }
        if self.0.len() > MAX_LINE { Err(LineTooLong) } else { Ok(lines) }
    }
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    lines: Lines,
}

/// The socket and its connections, in the event loop.
pub struct Control {
    listener: UnixListener,
    connections: HashMap<RawFd, Connection>,
    commands: Sender<Command>,
}

impl Control {
    /// `listener` must not block.
    pub fn new(listener: UnixListener, commands: Sender<Command>) -> Self {
        Self { listener, connections: HashMap::new(), commands }
    }

    fn accept(&mut self, ops: &mut EventOps<'_>) {
        // One at a time: the loop calls again while there are more.
        let Ok((stream, _)) = self.listener.accept() else { return };
        if self.connections.len() >= MAX_CONNECTIONS || stream.set_nonblocking(true).is_err() {
            return;
        }
        if ops.add(Events::new(&stream, EventSet::IN)).is_ok() {
            self.connections.insert(stream.as_raw_fd(), Connection { stream, lines: Lines::default() });
        }
    }

    /// Reads what has come; `false` when the connection is over.
    fn read(&mut self, fd: RawFd) -> bool {
        let Some(connection) = self.connections.get_mut(&fd) else { return true };
        let mut buffer = [0; MAX_LINE];
        let lines = match connection.stream.read(&mut buffer) {
            Ok(0) => return false,
            Ok(read) => connection.lines.push(&buffer[..read]),
            Err(error) => {
                return matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
            }
        };
        let Ok(clone) = connection.stream.try_clone() else { return false };
        let reply = ReplyTo(clone);
        let Ok(lines) = lines else {
            reply.refuse(format!("a request is longer than {MAX_LINE} bytes"));
            return false;
        };
        lines.iter().all(|line| self.request(line, &reply))
    }

    fn request(&self, line: &[u8], reply: &ReplyTo) -> bool {
        match serde_json::from_slice(line) {
            Ok(request) => {
                let Ok(clone) = reply.0.try_clone() else { return false };
                self.commands.send(Command { request, reply: ReplyTo(clone) }).is_ok()
            }
            Err(error) => {
                reply.refuse(format!("not a request: {error}"));
                true
            }
        }
    }
}

impl MutEventSubscriber for Control {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        // A listening socket can be watched, and this one is not yet.
        let _ = ops.add(Events::new(&self.listener, EventSet::IN));
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        let fd = events.fd();
        if fd == self.listener.as_raw_fd() {
            self.accept(ops);
        } else if !self.read(fd) {
            // Out of the loop first: a closed number may come back as another connection's.
            let _ = ops.remove(Events::empty_raw(fd));
            self.connections.remove(&fd);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_are_found_however_the_bytes_arrive() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"one\ntw"), Ok(vec![b"one".to_vec()]));
        assert_eq!(lines.push(b"o\n\nthree"), Ok(vec![b"two".to_vec(), vec![]]));
        assert_eq!(lines.push(&[b'x'; MAX_LINE]), Err(LineTooLong));
    }

    proptest! {
        #[test]
        fn never_more_than_a_line_and_a_read_is_kept(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..MAX_LINE), 0..20),
        ) {
            let mut lines = Lines::default();
            for chunk in chunks {
                if lines.push(&chunk).is_err() {
                    break;
                }
                prop_assert!(lines.0.len() <= MAX_LINE);
            }
        }

        #[test]
        fn any_line_is_a_request_or_refused(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = serde_json::from_slice::<Request>(&line);
        }
    }
}
