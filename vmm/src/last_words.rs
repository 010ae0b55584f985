//! What is said when memory can't be touched: a page behind a mapping is gone (SIGBUS), or may not be touched (SIGSEGV).
//!
//! The kernel sends the signal to the thread that touches it, and there is nothing to go on with. The handler leaves the exit record
//! and a line on the standard error, so that this end does not look like a kill. What it does is async-signal-safe (signal-safety(7)): it
//! takes no lock and no memory, and every thread's filter lets it.
//!
//! One of the crate's few modules with `unsafe`: it installs a signal handler, and writes to a descriptor by its number.

use crate::api::status::ExitReason;
use crate::sys;
use std::ffi::{c_int, c_void};
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

const NONE: RawFd = -1;

/// The status file's number, as long as it wants an exit record.
static RECORD: AtomicI32 = AtomicI32::new(NONE);
static SPEAKS: AtomicBool = AtomicBool::new(false);

/// What is said around the reason.
const BEGIN: &str = r#"{"event":"exit","reason":"internal_error","detail":""#;
const TIME: &str = r#"","at_us":"#;
const END: &str = "}\n";
const COMPLAINT: &str = "vial-vmm: error: ";

/// A file has become shorter behind its mapping, or the host's memory is broken.
const GONE: &str = "a page of mapped memory is gone (SIGBUS): a file behind guest memory has become shorter, or the host's memory is broken";
/// No guest can bring this about.
const OUT_OF_REACH: &str =
    "memory out of reach was touched (SIGSEGV): this program is broken, or the host's memory";
/// Room for the longest record.
const MOST: usize = 256;
/// As many digits as a u64 has.
const DIGITS: usize = 20;

/// From now on the exit record goes to `file`, which stays open until another takes its place.
pub fn record_at(file: Option<&File>) {
    RECORD.store(file.map_or(NONE, AsRawFd::as_raw_fd), Ordering::SeqCst);
}

/// To be called before any thread is made, and after the standard library has set its own handlers, which know of stack overflows only. Those
/// end the process without a word here: this handler has no stack of its own.
pub fn install() {
    for signal in [libc::SIGBUS, libc::SIGSEGV] {
        if let Err(error) = vmm_sys_util::signal::register_signal_handler(signal, speak) {
            // Nothing is worse for it than without this module.
            crate::line_writer::complain(&format!("no handler for signal {signal}: {error}"));
        }
    }
}

extern "C" fn speak(signal: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    if SPEAKS.swap(true, Ordering::SeqCst) {
        // Another thread does, and then it ends all of them.
        loop {
            std::thread::yield_now();
        }
    }
    let why = if signal == libc::SIGBUS { GONE } else { OUT_OF_REACH };
    let mut line = [0; MOST];
    let record = RECORD.swap(NONE, Ordering::SeqCst);
    if record != NONE {
        write(record, compose_record(&mut line, why, sys::monotonic_us()));
    }
    // SAFETY: nothing closes the standard error.
    if sys::has_room(&unsafe { BorrowedFd::borrow_raw(libc::STDERR_FILENO) }) {
        write(libc::STDERR_FILENO, compose(&mut line, &[COMPLAINT.as_bytes(), why.as_bytes(), b"\n"]));
    }
    // SAFETY: it ends the process at once and runs nothing of it any more.
    unsafe { libc::_exit(ExitReason::InternalError.code()) }
}

fn write(fd: RawFd, bytes: &[u8]) {
    // SAFETY: the kernel only reads `bytes`.
    unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
}

fn compose_record<'a>(line: &'a mut [u8; MOST], why: &str, mut at_us: u64) -> &'a [u8] {
    let (mut digits, mut first) = ([0; DIGITS], DIGITS);
    loop {
        first -= 1;
        digits[first] = b'0' + (at_us % 10) as u8;
        at_us /= 10;
        if at_us == 0 {
            break;
        }
    }
    let parts = [BEGIN.as_bytes(), why.as_bytes(), TIME.as_bytes(), &digits[first..], END.as_bytes()];
    compose(line, &parts)
}

/// Puts parts together, which have room.
fn compose<'a>(line: &'a mut [u8; MOST], parts: &[&[u8]]) -> &'a [u8] {
    let mut len = 0;
    for part in parts {
        line[len..len + part.len()].copy_from_slice(part);
        len += part.len();
    }
    &line[..len]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::Record;

    #[test]
    fn the_record_is_one() {
        for (why, time) in [(GONE, 0), (OUT_OF_REACH, 7), (GONE, 1_234_567_890), (OUT_OF_REACH, u64::MAX)] {
            let mut line = [0; MOST];
            let line = compose_record(&mut line, why, time);
            assert_eq!(line.last(), Some(&b'\n'));
            let record: Record = serde_json::from_slice(line).unwrap();
            let Record::Exit { reason, detail, at_us, .. } = record else { panic!("{record:?}") };
            assert_eq!((reason, &*detail, at_us), (ExitReason::InternalError, why, time));
        }
    }
}
