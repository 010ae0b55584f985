//! The way back to a client of the control socket: answers go out as fast as it takes them, and what does not fit into its socket waits here.

use crate::api::control::Reply;
use crate::lock::lock;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Bytes of answers that wait for one client; with more it is taken for one that does not read. One read may bring thousands of requests.
pub const MAX_UNSENT: usize = 1 << 20;

/// Where outlets say that they need somebody who waits for room.
#[derive(Debug)]
pub struct Desk {
    bell: EventFd,
    // Of connections that nobody reads from any more.
    left: Mutex<Vec<Arc<Outlet>>>,
}

impl Desk {
    /// Nobody waits.
    ///
    /// # Errors
    /// Descriptors have run out.
    pub fn new() -> io::Result<Self> {
        Ok(Self { bell: EventFd::new(EFD_NONBLOCK)?, left: Mutex::default() })
    }

    /// Readable when somebody does.
    pub fn bell(&self) -> &impl AsRawFd {
        &self.bell
    }

    /// Answers the bell: outlets that nobody else keeps.
    pub fn take_left(&self) -> Vec<Arc<Outlet>> {
        let _ = self.bell.read();
        std::mem::take(&mut lock(&self.left))
    }
}

/// A connection, towards its client. Requests that are not answered yet share it: a descriptor each would be thousands, since a read may
/// hold as many lines. It is closed when nobody has it any more.
#[derive(Debug)]
pub struct Outlet {
    stream: UnixStream,
    unsent: Mutex<VecDeque<u8>>,
    ended: AtomicBool,
    desk: Arc<Desk>,
}

impl Outlet {
    /// For a connection that does not block.
    pub fn new(stream: UnixStream, desk: &Arc<Desk>) -> Arc<Self> {
        let (unsent, ended, desk) = (Mutex::default(), AtomicBool::new(false), Arc::clone(desk));
        Arc::new(Self { stream, unsent, ended, desk })
    }

    /// The connection.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Sends a line, or as much of it as there is room for.
    pub fn send(self: &Arc<Self>, reply: &Reply) {
        let line = serde_json::to_vec(reply).expect("replies have only strings and numbers");
        let mut unsent = lock(&self.unsent);
        let was_empty = unsent.is_empty();
        unsent.extend(line);
        unsent.push_back(b'\n');
        self.write(&mut unsent);
        if unsent.len() > MAX_UNSENT {
            self.give_up(&mut unsent);
        }
        if !unsent.is_empty() {
            if was_empty && self.ended.load(Ordering::Relaxed) {
                lock(&self.desk.left).push(Arc::clone(self));
            }
            // A counter that is full is readable too.
            let _ = self.desk.bell.write(1);
        }
    }

    /// Sends what there is room for; whether that was all.
    pub fn flush(&self) -> bool {
        let mut unsent = lock(&self.unsent);
        self.write(&mut unsent);
        unsent.is_empty()
    }

    /// Nobody reads from it any more, nor waits for room, but for those whom the desk names. What could not be sent so far is lost, as its client is.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        let mut unsent = lock(&self.unsent);
        if !unsent.is_empty() {
            self.give_up(&mut unsent);
        }
    }

    fn write(&self, unsent: &mut VecDeque<u8>) {
        while !unsent.is_empty() {
            match (&self.stream).write(unsent.as_slices().0) {
                Ok(written) => drop(unsent.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.give_up(unsent),
            }
        }
    }

    /// Gone, or not reading; either way it sees the end of the connection, and not one line instead of another.
    fn give_up(&self, unsent: &mut VecDeque<u8>) {
        unsent.clear();
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
