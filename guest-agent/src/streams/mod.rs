//! Standard streams that survive the loss of any connection.
//!
//! A process writes into pipes that the agent reads; connections come and go. Losing the host's daemon means back-pressure, never
//! a broken pipe or lost output.

mod input;
mod output;
mod ring;
mod terminal;
mod wire;

pub use input::Input;
pub use output::Output;
pub use terminal::{Console, ConsoleEnd, Size, Terminal};

use crate::errors::internal;
use agent_protocol::AgentError;
use rustix::fs::{Gid, Mode, OFlags, Uid, fchown, open};
use rustix::pipe::{PipeFlags, pipe_with};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

/// Where terminals arrive: on the agent's own tmpfs, which no container sees.
const CONSOLES: &str = "/run/vial";

/// The agent's ends of a process's standard streams.
#[derive(Debug, Clone)]
pub struct Streams {
    /// None when standard input is /dev/null.
    pub stdin: Option<Rc<Input>>,
    /// Standard output; with a terminal, all output.
    pub stdout: Rc<Output>,
    /// Standard error; with a terminal it ends at once, empty.
    pub stderr: Rc<Output>,
    /// The terminal, if the process has one.
    pub terminal: Option<Rc<Terminal>>,
}

/// What streams a process wants.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// Whether standard input comes over a stream.
    pub stdin: bool,
    /// The size of its terminal, if it is to have one.
    pub terminal: Option<Size>,
    /// The user that the process will run as: the streams are its own, so that it can open /dev/stdout and its like by name.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// The process's ends.
#[derive(Debug)]
pub enum ProcessEnds {
    /// Standard input, output, error.
    Pipes([OwnedFd; 3]),
    /// A terminal, that the runtime makes.
    Console(ConsoleEnd),
}

/// Where output will come from.
#[derive(Debug)]
pub enum Source {
    /// Standard output, error.
    Pipes([OwnedFd; 2]),
    /// A terminal that has not come yet.
    Console(Console),
}

/// What the pumps read from.
#[derive(Debug)]
pub enum Pumps {
    /// Standard output, error.
    Pipes([OwnedFd; 2]),
    /// The master of a terminal.
    Terminal(OwnedFd),
}

/// Makes the streams of one process.
///
/// # Errors
/// When the agent is out of descriptors.
pub fn make(wish: &Wish) -> io::Result<(Streams, ProcessEnds, Source)> {
    let (stdout, stderr) = (Output::new(), Output::new());
    if let Some(size) = wish.terminal {
        let (console, end) = Console::listen(Path::new(CONSOLES), wish.uid, size)?;
        let stdin = wish.stdin.then(Input::of_terminal);
        let streams = Streams { stdin, stdout, stderr, terminal: Some(Rc::default()) };
        return Ok((streams, ProcessEnds::Console(end), Source::Console(console)));
    }
    let (stdin, process_in) = if wish.stdin {
        let (read, write) = pipe(wish.uid, wish.gid)?;
        rustix::io::ioctl_fionbio(&write, true)?;
        (Some(Input::new(write)?), read)
    } else {
        (None, open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    };
    let (out, process_out) = pipe(wish.uid, wish.gid)?;
    let (err, process_err) = pipe(wish.uid, wish.gid)?;
    for end in [&out, &err] {
        rustix::io::ioctl_fionbio(end, true)?;
    }
    let streams = Streams { stdin, stdout, stderr, terminal: None };
    Ok((streams, ProcessEnds::Pipes([process_in, process_out, process_err]), Source::Pipes([out, err])))
}

fn pipe(uid: u32, gid: u32) -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    // Both ends are one inode.
    fchown(read.as_fd(), Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    Ok((read, write))
}

impl Source {
    /// Waits until the process stands and its terminal, if it has one, is with its streams.
    ///
    /// # Errors
    /// What kept the process from standing, or its terminal from coming.
    pub async fn connect<T>(
        self,
        streams: &Streams,
        made: impl Future<Output = Result<T, AgentError>>,
    ) -> Result<(T, Pumps), AgentError> {
        let console = match self {
            Self::Pipes(pipes) => return Ok((made.await?, Pumps::Pipes(pipes))),
            Self::Console(console) => console,
        };
        // Either may come first: an exec stands only when its command runs, which waits for the terminal.
        let mut console = std::pin::pin!(console.receive());
        let mut made = std::pin::pin!(made);
        let (made, ends) = tokio::select! {
            made = &mut made => (made?, console.await),
            ends = &mut console => (made.await?, ends),
        };
        let hold = |ends: terminal::Ends| -> io::Result<OwnedFd> {
            let master = ends.master.try_clone()?;
            if let Some(stdin) = &streams.stdin {
                stdin.open(master.try_clone()?)?;
            }
            if let Some(terminal) = &streams.terminal {
                terminal.open(ends);
            }
            Ok(master)
        };
        let master = ends.and_then(hold).map_err(internal("the terminal can't be made"))?;
        Ok((made, Pumps::Terminal(master)))
    }
}

impl Streams {
    /// Moves what the process writes into the rings, until its output is complete.
    pub async fn pump(&self, pumps: Pumps) {
        match pumps {
            Pumps::Pipes([out, err]) => {
                tokio::join!(self.stdout.pump(out), self.stderr.pump(err));
            }
            Pumps::Terminal(master) => {
                self.stderr.end();
                self.stdout.pump_terminal(master).await;
            }
        }
    }

    /// The process has ended: no more input, and output only until its pipes are empty.
    pub fn process_over(&self) {
        self.close_input();
        self.close_terminal();
        self.stdout.process_over();
        self.stderr.process_over();
    }

    /// Nobody will ask for the rest.
    pub fn abandon(&self) {
        self.close_input();
        self.close_terminal();
        self.stdout.abandon();
        self.stderr.abandon();
    }

    /// Whether the host has all output.
    pub fn is_done(&self) -> bool {
        self.stdout.is_done() && self.stderr.is_done()
    }

    fn close_terminal(&self) {
        if let Some(terminal) = &self.terminal {
            terminal.close();
        }
    }

    fn close_input(&self) {
        if let Some(stdin) = &self.stdin {
            stdin.close();
        }
    }
}
