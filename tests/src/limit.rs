//! The end of every wait for a process that hangs.

use crate::host::signal;
use crate::story;
use std::io::Write;
use std::path::Path;
use std::process::Child;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// No command takes a quarter of it on an idle machine; what takes all of it on a busy one has hung.
pub const LIMIT: Duration = Duration::from_secs(420);

/// What `tools/testbed` ends with when the emulated host stands still, and so says that the tests that were not through may be tried in another.
const STOOD_STILL: i32 = 123;

/// While it lives, a process may be waited for: at the limit that is killed, which ends the wait.
pub struct Limit {
    done: Option<Sender<()>>,
    watch: Option<JoinHandle<bool>>,
}

impl Limit {
    /// A limit for this process, or its group if negative; `tell` says what is to be seen before the kill changes it.
    ///
    /// On the emulated host the test program ends there and then: QEMU's emulation lets a VM hang now and then, and nothing tells that from a fault of
    /// Vial's but another try, which `tools/test` makes, once, and says so.
    pub fn on(process: i32, tell: impl FnOnce() -> String + Send + 'static) -> Self {
        let (done, end) = channel::<()>();
        let watch = std::thread::spawn(move || {
            let hung = end.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout);
            if hung {
                // Not by way of the test's captured output, which is lost with the program.
                let mut out = std::io::stderr();
                let _ = writeln!(out, "\nprocess {process} hangs\n{}", tell());
                if std::env::var_os("VIAL_IN_TESTBED").is_some() {
                    let _ = writeln!(out, "--- what had failed before\n{}", story::failures());
                    std::process::exit(STOOD_STILL);
                }
                signal(process, libc::SIGKILL);
            }
            hung
        });
        Self { done: Some(done), watch: Some(watch) }
    }

    /// A limit for a VMM without a daemon, whose console this file is.
    pub fn on_vmm(vmm: &Child, console: &Path) -> Self {
        let (process, console) = (i32::try_from(vmm.id()).expect("process ids fit"), console.to_owned());
        Self::on(process, move || story::of_vmm(&console))
    }

    /// The wait is over; whether it was this that ended it.
    pub fn is_up(mut self) -> bool {
        self.end()
    }

    fn end(&mut self) -> bool {
        drop(self.done.take());
        // Nothing in the watch panics but the teller, and the wait has ended all the same.
        self.watch.take().is_some_and(|watch| watch.join().unwrap_or(true))
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        self.end();
    }
}
