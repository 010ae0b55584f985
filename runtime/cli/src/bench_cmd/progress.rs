//! What a bench does just now, on standard error: a bar on a terminal, a line for each part elsewhere.

use crate::output::remark;
use crate::units;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use vial_bench::startup::Watch;

/// A bar, or lines.
pub struct Progress {
    bar: ProgressBar,
    terminal: bool,
}

impl Progress {
    /// Nothing is shown yet.
    pub fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { bar: ProgressBar::hidden(), terminal }
    }
}

impl Watch for Progress {
    fn begin(&mut self, what: &str, steps: u64) {
        self.bar.finish_and_clear();
        if !self.terminal {
            remark(&format!("{what}\n"));
            return;
        }
        self.bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {elapsed} {msg}") {
            self.bar.set_style(style);
        }
        self.bar.set_prefix(units::cell(what, 40));
        self.bar.tick();
    }

    fn step(&mut self, newest: &str) {
        self.bar.set_message(units::cell(newest, 40));
        self.bar.inc(1);
    }

    fn remark(&mut self, words: &str) {
        // Foreign words: what a failed program said.
        let words = units::cell(words, 600);
        self.bar.suspend(|| remark(&format!("{words}\n")));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
