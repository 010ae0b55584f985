//! A command in the background that the test talks with.

use crate::host::{Ran, Vial};
use std::io::Read;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Nothing takes a fifth of it on an idle machine; what does on a busy one has hung.
const BOUND: Duration = Duration::from_secs(180);

/// Waits for a fact, without a sleep that would let it pass.
#[track_caller]
pub fn until<T>(what: &str, mut fact: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = fact() {
            return found;
        }
        assert!(begin.elapsed() < BOUND, "it never came to this: {what}");
        std::thread::yield_now();
    }
}

/// A command in the background whose output can be waited for.
pub struct Talk {
    child: Child,
    output: Receiver<u8>,
    seen: Vec<u8>,
}

impl Talk {
    /// Starts it with input and both outputs piped.
    pub fn start(vial: &Vial, args: &[&str]) -> Self {
        let mut child = vial.spawn(args, Stdio::piped());
        let mut stdout = child.stdout.take().expect("stdout is a pipe");
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut byte = [0];
            while stdout.read(&mut byte).is_ok_and(|count| count == 1) {
                // The test may have seen enough.
                let _ = sender.send(byte[0]);
            }
        });
        Self { child, output, seen: Vec::new() }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("process ids fit")
    }

    /// Waits until its output ends in this.
    #[track_caller]
    pub fn says(&mut self, words: &str) {
        while !self.seen.ends_with(words.as_bytes()) {
            let byte = self.output.recv_timeout(BOUND);
            let seen = String::from_utf8_lossy(&self.seen);
            self.seen.push(byte.unwrap_or_else(|e| panic!("{e}: it never said {words:?} but {seen:?}")));
        }
    }

    /// No more input.
    pub fn end_input(&mut self) {
        self.child.stdin.take();
    }

    /// What it reads.
    pub fn input(&mut self) -> &mut std::process::ChildStdin {
        self.child.stdin.as_mut().expect("stdin is a pipe, and not ended")
    }

    /// What it reads, to be kept open or not.
    pub fn take_input(&mut self) -> Option<std::process::ChildStdin> {
        self.child.stdin.take()
    }

    /// Its end.
    #[track_caller]
    pub fn ended(mut self) -> Ran {
        self.end_input();
        loop {
            match self.output.recv_timeout(BOUND) {
                Ok(byte) => self.seen.push(byte),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(error) => panic!("{error}: {:?} does not end", self.child),
            }
        }
        let mut ran = Ran::from(self.child.wait_with_output().expect("a child can be waited for"));
        ran.stdout = String::from_utf8_lossy(&self.seen).into_owned();
        ran
    }
}
