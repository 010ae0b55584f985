//! A command in the background that the test talks with.

use crate::host::{Ran, Vial};
use crate::limit::LIMIT;
use std::io::Read;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Between two looks: shorter than any fact that is waited for lasts, and long enough to leave the only processor of an emulated host to what is
/// to bring it about.
const PAUSE: Duration = Duration::from_millis(1);

/// Waits for a fact.
#[track_caller]
pub fn until<T>(what: &str, mut fact: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = fact() {
            return found;
        }
        assert!(begin.elapsed() < LIMIT, "it never came to this: {what}");
        std::thread::sleep(PAUSE);
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
            match self.output.recv_timeout(LIMIT) {
                Ok(byte) => self.seen.push(byte),
                Err(error) => {
                    let seen = String::from_utf8_lossy(&self.seen).into_owned();
                    panic!("{error}: it never said {words:?} but {seen:?}{}", self.last_words());
                }
            }
        }
    }

    /// Waits for a fact that comes about while it runs.
    #[track_caller]
    pub fn until<T>(&mut self, what: &str, mut fact: impl FnMut() -> Option<T>) -> T {
        until(what, || {
            // Asked first: what its end brings about is no such fact.
            let over = self.child.try_wait().expect("it is our child").is_some();
            let found = fact();
            assert!(found.is_some() || !over, "it never came to this: {what}{}", self.last_words());
            found
        })
    }

    /// How it ended and what it said of that, if it has.
    fn last_words(&mut self) -> String {
        let Ok(Some(status)) = self.child.try_wait() else { return String::new() };
        let mut said = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            // What is no text is not worth the test's own words.
            let _ = stderr.read_to_string(&mut said);
        }
        format!("; it had ended ({status}) and said {said:?}")
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
            match self.output.recv_timeout(LIMIT) {
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
