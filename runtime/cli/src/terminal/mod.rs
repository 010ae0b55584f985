//! The person's terminal: raw mode and back, its size, and the keys that leave a container.

pub mod keys;
pub mod screen;

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};
use vial_api::TerminalSize;

/// A terminal on standard input that passes every key on, until this is dropped.
#[derive(Debug)]
pub struct Raw {
    before: Termios,
}

impl Raw {
    /// Whether there is somebody to type.
    pub fn is_possible() -> bool {
        isatty(io::stdin()) && isatty(io::stdout())
    }

    /// Switches the terminal.
    ///
    /// # Errors
    /// When standard input is no terminal.
    pub fn enter() -> io::Result<Self> {
        let raw = Self { before: tcgetattr(io::stdin())? };
        raw.again()?;
        // A release build aborts on a panic, and runs no destructor then.
        let (hook, terminal) = (std::panic::take_hook(), raw.before.clone());
        std::panic::set_hook(Box::new(move |panic| {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &terminal);
            hook(panic);
        }));
        Ok(raw)
    }

    /// Switches it once more, after somebody else had it.
    fn again(&self) -> io::Result<()> {
        let mut raw = self.before.clone();
        raw.make_raw();
        Ok(tcsetattr(io::stdin(), OptionalActions::Now, &raw)?)
    }

    fn leave(&self) {
        // Drain: what the guest wrote last is still on its way through the terminal.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Whether standard input is a terminal.
pub fn is_input() -> bool {
    isatty(io::stdin())
}

/// The size of the terminal that output goes to; none when there is none.
pub fn size() -> Option<TerminalSize> {
    let size = tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin())).ok()?;
    Some(TerminalSize { cols: size.ws_col, rows: size.ws_row })
}

/// The person's terminal while it belongs to a process in a container.
#[derive(Debug)]
pub struct Lent {
    /// None where nobody types (`-t` without `-i`).
    raw: Option<Raw>,
    resized: Signal,
    /// Only while the terminal is raw: it must be given back before this process stops, and taken again afterwards.
    stopped: Option<[Signal; 2]>,
}

impl Lent {
    /// Lends it; raw when somebody types.
    ///
    /// # Errors
    /// When signals can't be watched, or standard input is no terminal although somebody is to type.
    pub fn new(typing: bool) -> io::Result<Self> {
        let watch = |number| signal(SignalKind::from_raw(number));
        let resized = watch(libc::SIGWINCH)?;
        let stopped = match typing {
            true => Some([watch(libc::SIGTSTP)?, watch(libc::SIGCONT)?]),
            false => None,
        };
        let raw = typing.then(Raw::enter).transpose()?;
        Ok(Self { raw, resized, stopped })
    }

    /// Waits until the process in the container should be told its terminal's size again.
    pub async fn changed(&mut self) {
        let Self { raw, resized, stopped: Some([stop, go_on]) } = self else {
            self.resized.recv().await;
            return;
        };
        loop {
            tokio::select! {
                _ = resized.recv() => return,
                _ = stop.recv() => {
                    if let Some(raw) = raw {
                        raw.leave();
                    }
                    // The stop that this process would have had without a watcher; it returns when somebody continues it.
                    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
                }
                // Also after a stop that could not be seen, as that of a debugger: the shell had the terminal meanwhile.
                _ = go_on.recv() => {
                    if let Some(raw) = raw {
                        let _ = raw.again();
                    }
                    return;
                }
            }
        }
    }
}
