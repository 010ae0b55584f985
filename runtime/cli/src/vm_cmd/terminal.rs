//! The terminal in raw mode, and back.

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use std::io;

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
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        // A release build aborts on a panic, and runs no destructor then.
        let (hook, terminal) = (std::panic::take_hook(), before.clone());
        std::panic::set_hook(Box::new(move |panic| {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &terminal);
            hook(panic);
        }));
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Drain: what the guest wrote last is still on its way through the terminal.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
    }
}
