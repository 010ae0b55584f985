//! Standard streams that survive the loss of any connection.
//!
//! A process writes into pipes that the agent reads; connections come and go. Losing the host's daemon means back-pressure, never
//! a broken pipe or lost output.

mod input;
mod output;
mod ring;
mod wire;

pub use input::Input;
pub use output::Output;

use rustix::fs::{Gid, Mode, OFlags, Uid, fchown, open};
use rustix::pipe::{PipeFlags, pipe_with};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

/// The agent's ends of a process's standard streams.
#[derive(Debug, Clone)]
pub struct Streams {
    /// None when standard input is /dev/null.
    pub stdin: Option<Rc<Input>>,
    /// Standard output.
    pub stdout: Rc<Output>,
    /// Standard error.
    pub stderr: Rc<Output>,
}

/// The process's ends: standard input, output, error.
pub type ProcessEnds = [OwnedFd; 3];

/// What the output pumps read from: standard output, error.
pub type PumpEnds = [OwnedFd; 2];

/// Makes the streams of one process that will run as `uid` and `gid`.
///
/// The pipes belong to that user, so that it can open /dev/stdout and its like by name.
///
/// # Errors
/// When the agent is out of descriptors.
pub fn make(with_stdin: bool, uid: u32, gid: u32) -> io::Result<(Streams, ProcessEnds, PumpEnds)> {
    let (stdin, process_in) = if with_stdin {
        let (read, write) = pipe(uid, gid)?;
        rustix::io::ioctl_fionbio(&write, true)?;
        (Some(Input::new(write)?), read)
    } else {
        (None, open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    };
    let (out, process_out) = pipe(uid, gid)?;
    let (err, process_err) = pipe(uid, gid)?;
    for end in [&out, &err] {
        rustix::io::ioctl_fionbio(end, true)?;
    }
    let streams = Streams { stdin, stdout: Output::new(), stderr: Output::new() };
    Ok((streams, [process_in, process_out, process_err], [out, err]))
}

fn pipe(uid: u32, gid: u32) -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    // Both ends are one inode.
    fchown(read.as_fd(), Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    Ok((read, write))
}

impl Streams {
    /// The process has ended: no more input, and output only until its pipes are empty.
    pub fn process_over(&self) {
        self.close_input();
        self.stdout.process_over();
        self.stderr.process_over();
    }

    /// Nobody will ask for the rest.
    pub fn abandon(&self) {
        self.close_input();
        self.stdout.abandon();
        self.stderr.abandon();
    }

    /// Whether the host has all output.
    pub fn is_done(&self) -> bool {
        self.stdout.is_done() && self.stderr.is_done()
    }

    fn close_input(&self) {
        if let Some(stdin) = &self.stdin {
            stdin.close();
        }
    }
}
