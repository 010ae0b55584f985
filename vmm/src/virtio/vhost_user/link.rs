//! The connection to a back end: what is sent, and answers that are waited for, but not for ever.
//!
//! The `vhost` crate has a front end too, and it is no help here: it waits without a limit, so that a back end which says nothing would
//! hold up the whole VM, and its descriptors go through system calls that the threads in which drivers reset devices don't have. This
//! one reads and writes with the calls that every thread has (`read`, `write`), which come back every [`TICK`]: the socket is made so before
//! the filters, and how long a whole exchange may take is up to who begins it.

use super::dialogue::Dialogue;
use super::message::{Answer, HEADER_LEN, MAX_PAYLOAD, ProtocolError, Request, encode, is_answered};
use crate::sys;
use std::io;
use std::net::Shutdown;
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// How long a back end may take for all that is asked of it at a time. It may have to finish what its disk is doing first.
pub const LIMIT: Duration = Duration::from_secs(5);
/// How long one system call waits, and so how much longer it may get.
const TICK: Duration = Duration::from_millis(100);

/// When a back end must have answered what it is going to be asked.
pub fn deadline() -> Instant {
    Instant::now() + LIMIT
}

/// Why a back end is one no more.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The other end is closed.
    #[error("its back end is gone")]
    Gone,
    /// No answer in time.
    #[error("its back end did not answer {0:?} within {seconds} s", seconds = LIMIT.as_secs())]
    Silent(Request),
    /// Another request waits for its answer.
    #[error("its back end is asked something else; try again")]
    Busy,
    /// It breaks the protocol, or says no.
    #[error("its back end broke the vhost-user protocol")]
    Protocol(#[from] ProtocolError),
    /// Memory that can't be shared.
    #[error("guest memory is in no file that a back end could map")]
    Memory,
    /// A system call.
    #[error("the connection to its back end failed")]
    Io(#[source] io::Error),
}

/// Makes a connected socket one that waits, but not longer than a back end may. To be called before system calls are filtered.
///
/// # Errors
/// It is no socket.
pub fn prepare(socket: &UnixStream) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(TICK))?;
    socket.set_write_timeout(Some(TICK))
}

/// A connection, until it is lost; there is no second one.
#[derive(Debug)]
pub struct Link {
    socket: Arc<UnixStream>,
    dialogue: Dialogue,
    /// Whether the back end acknowledges what it is told (REPLY_ACK).
    pub acks: bool,
    /// Whether it knows where guest memory is.
    pub knows_memory: bool,
    lost: bool,
}

impl Link {
    /// On a socket of [`prepare`].
    pub fn new(socket: UnixStream) -> Self {
        let socket = Arc::new(socket);
        Self { socket, dialogue: Dialogue::default(), acks: false, knows_memory: false, lost: false }
    }

    /// What is readable when the back end speaks or is gone.
    pub fn socket(&self) -> &Arc<UnixStream> {
        &self.socket
    }

    /// Whether it was given up.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Gives it up; true the first time.
    pub fn lose(&mut self) -> bool {
        !std::mem::replace(&mut self.lost, true)
    }

    /// Tells the back end something until `by`, with descriptors beside it. Its acknowledgement, if there is to be one, comes later.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub fn tell(
        &mut self,
        request: Request,
        payload: &[u8],
        mut files: &[RawFd],
        by: Instant,
    ) -> Result<(), LinkError> {
        let bytes = encode(request, payload, self.acks);
        let mut rest = &bytes[..];
        loop {
            match self.send(rest, files) {
                // The descriptors go with the first byte.
                Ok(sent) => (rest, files) = (rest.get(sent..).unwrap_or_default(), &[]),
                Err(error) if waits(&error) => {}
                Err(error) => return Err(broken(error)),
            }
            match rest {
                [] if is_answered(request, self.acks) => return Ok(self.dialogue.asked(request)?),
                [] => return Ok(()),
                _ if Instant::now() >= by => return Err(LinkError::Silent(request)),
                _ => {}
            }
        }
    }

    fn send(&self, bytes: &[u8], files: &[RawFd]) -> io::Result<usize> {
        match files {
            [] => Ok(rustix::io::write(&*self.socket, bytes)?),
            files => Ok(self.socket.send_with_fds(&[bytes], files)?),
        }
    }

    /// Asks the back end something and waits for the answer until `by`; acknowledgements of what it was told before come first.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub fn ask(&mut self, request: Request, payload: &[u8], by: Instant) -> Result<Answer, LinkError> {
        self.tell(request, payload, &[], by)?;
        let mut buffer = [0; HEADER_LEN + MAX_PAYLOAD];
        loop {
            let wanted = self.dialogue.wanted().min(buffer.len());
            match rustix::io::read(&*self.socket, &mut buffer[..wanted]) {
                Ok(0) => return Err(LinkError::Gone),
                Ok(read) => {
                    let answer = self.dialogue.feed(&buffer[..read])?;
                    if let Some((_, answer)) = answer
                        && self.dialogue.is_idle()
                    {
                        return Ok(answer);
                    }
                }
                Err(error) if waits(&error.into()) => {}
                Err(error) => return Err(broken(error.into())),
            }
            if Instant::now() >= by {
                return Err(LinkError::Silent(request));
            }
        }
    }

    /// The same for a number.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub fn ask_number(&mut self, request: Request, by: Instant) -> Result<u64, LinkError> {
        match self.ask(request, &[], by)? {
            Answer::Number(number) => Ok(number),
            _ => Err(ProtocolError::Subject(request).into()),
        }
    }

    /// Takes in what has come, without waiting: acknowledgements, if any are to come.
    ///
    /// # Errors
    /// See [`LinkError`]: it is gone, refuses, or speaks unasked.
    pub fn listen(&mut self) -> Result<(), LinkError> {
        let mut buffer = [0; HEADER_LEN + MAX_PAYLOAD];
        loop {
            let wanted = self.dialogue.wanted().min(buffer.len());
            match sys::receive::<0>(&self.socket, &mut buffer[..wanted]) {
                Ok(received) if received.bytes == 0 => return Err(LinkError::Gone),
                Ok(received) => drop(self.dialogue.feed(&buffer[..received.bytes])?),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(broken(error)),
            }
        }
    }

    /// Hangs up: back ends stop working with the memory of a front end that is gone.
    pub fn hang_up(socket: &UnixStream) {
        // One that is closed already is hung up too.
        let _ = socket.shutdown(Shutdown::Both);
    }
}

/// Whether a call came back only for somebody to look at the clock.
fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn broken(error: io::Error) -> LinkError {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected => {
            LinkError::Gone
        }
        _ => LinkError::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_back_end_that_says_nothing_is_not_waited_for_for_ever() {
        let (front, _back) = UnixStream::pair().unwrap();
        prepare(&front).unwrap();
        let mut link = Link::new(front);
        // What is asked at a time has one limit: when it is over, nothing more of it is waited for.
        let by = Instant::now();
        for _ in 0..2 {
            let error = link.ask_number(Request::GetFeatures, by).unwrap_err();
            assert!(matches!(error, LinkError::Silent(Request::GetFeatures)), "{error}");
        }
        // It does not even read.
        let error = (0..100_000).find_map(|_| link.tell(Request::SetFeatures, &[0; 8], &[], by).err());
        assert!(matches!(error, Some(LinkError::Silent(Request::SetFeatures))), "{error:?}");
    }

    #[test]
    fn one_that_is_gone_is_told_from_one_that_is_silent() {
        let (front, back) = UnixStream::pair().unwrap();
        prepare(&front).unwrap();
        let mut link = Link::new(front);
        link.listen().unwrap();
        drop(back);
        assert!(matches!(link.listen(), Err(LinkError::Gone)));
        assert!(matches!(link.ask_number(Request::GetFeatures, deadline()), Err(LinkError::Gone)));
    }
}
