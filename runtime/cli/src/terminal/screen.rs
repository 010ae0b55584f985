//! A terminal during a session: the user's own until the command runs, then lent to it, its size told on.

use super::keys::{DetachKeys, Matcher};
use super::{Lent, size};
use crate::error::{Error, Result};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;
use vial_api::TerminalSize;

/// How long a process that has begun to draw itself, because its terminal has another size, may go on before that is taken back.
const REDRAW: Duration = Duration::from_millis(50);
/// How long it may take to begin; most that do not do it by then never will.
const NOTICE: Duration = Duration::from_secs(1);

/// The user's terminal during a session.
pub struct Screen {
    /// Finds the keys that leave.
    pub matcher: Matcher,
    /// The process has drawn already for somebody else.
    redraw: bool,
    /// None until the command runs.
    lent: Option<Lent>,
    /// Sizes to be told.
    sizes: VecDeque<TerminalSize>,
    /// The next of them is only there to be changed.
    pretends: bool,
    /// When the true size follows one that was only there to be changed.
    pub redraw_at: Option<Instant>,
}

impl Screen {
    /// A terminal that is still the user's own.
    pub fn new(keys: &DetachKeys, redraw: bool) -> Self {
        let matcher = Matcher::new(keys.clone());
        Self { matcher, redraw, lent: None, sizes: VecDeque::new(), pretends: false, redraw_at: None }
    }

    /// The command runs, or runs on behind a new connection. With `typing` the terminal becomes raw.
    ///
    /// # Errors
    /// When it can't be taken.
    pub fn lend(&mut self, typing: bool) -> Result<()> {
        if self.lent.is_none() {
            self.lent = Some(Lent::new(typing).map_err(Error::io("take the terminal"))?);
        }
        match size().filter(|size| size.rows > 1) {
            // Only a size that changes makes a program draw itself again, so that somebody who comes back sees it.
            Some(size) if std::mem::take(&mut self.redraw) => {
                self.sizes.push_back(TerminalSize { rows: size.rows - 1, ..size });
                self.pretends = true;
            }
            _ => self.tell(),
        }
        Ok(())
    }

    /// Whether a size is to be told.
    pub fn has_size(&self) -> bool {
        !self.sizes.is_empty()
    }

    /// The next size, on its way now.
    pub fn next_size(&mut self) -> Option<TerminalSize> {
        if std::mem::take(&mut self.pretends) {
            // From now on and not from when it was thought of: taken back before it is told, it would do nothing.
            self.redraw_at = Some(Instant::now() + NOTICE);
        }
        self.sizes.pop_front()
    }

    /// The process has written something.
    pub fn drawn(&mut self) {
        self.redraw_at = self.redraw_at.map(|at| at.min(Instant::now() + REDRAW));
    }

    /// The terminal has another size.
    pub fn tell(&mut self) {
        // Of several that wait only the last is true.
        self.sizes.clear();
        self.pretends = false;
        self.sizes.extend(size());
    }
}

/// Waits until the process should be told the terminal's size again; for ever, while the terminal is the user's own.
pub async fn changed(screen: &mut Option<Screen>) {
    match screen.as_mut().and_then(|screen| screen.lent.as_mut()) {
        Some(lent) => lent.changed().await,
        None => std::future::pending().await,
    }
}
