//! What is said when a page of mapped memory is gone: a file has become shorter behind its mapping, or the host's memory is broken.
//!
//! The kernel then sends SIGBUS to the thread that touches the page, and there is nothing to go on with. The handler leaves the exit record
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

/// The record's beginning; its time and [`END`] follow.
const BEGIN: &[u8] = br#"{"event":"exit","reason":"internal_error","detail":"a page of mapped memory is gone (SIGBUS): a file behind guest memory has become shorter, or the host's memory is broken","at_us":"#;
const END: &[u8] = b"}\n";
const COMPLAINT: &[u8] = b"vial-vmm: error: a page of mapped memory is gone (SIGBUS): a file behind guest memory has become shorter, or the host's memory is broken\n";
/// As many digits as a u64 has.
const DIGITS: usize = 20;

/// From now on the exit record goes to `file`, which stays open until another takes its place.
pub fn record_at(file: Option<&File>) {
    RECORD.store(file.map_or(NONE, AsRawFd::as_raw_fd), Ordering::SeqCst);
}

/// To be called before any thread is made, and after the standard library has set its own handler: it knows of stack overflows only, and
/// those are another signal here.
pub fn install() {
    if let Err(error) = vmm_sys_util::signal::register_signal_handler(libc::SIGBUS, speak) {
        // Nothing is worse for it than without this module.
        crate::line_writer::complain(&format!("no handler for SIGBUS: {error}"));
    }
}

extern "C" fn speak(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    if SPEAKS.swap(true, Ordering::SeqCst) {
        // Another thread does, and then it ends all of them.
        loop {
            std::thread::yield_now();
        }
    }
    let record = RECORD.swap(NONE, Ordering::SeqCst);
    if record != NONE {
        let mut line = [0; BEGIN.len() + DIGITS + END.len()];
        let len = compose(&mut line, sys::monotonic_us());
        write(record, &line[..len]);
    }
    // SAFETY: nothing closes the standard error.
    if sys::has_room(&unsafe { BorrowedFd::borrow_raw(libc::STDERR_FILENO) }) {
        write(libc::STDERR_FILENO, COMPLAINT);
    }
    // SAFETY: it ends the process at once and runs nothing of it any more.
    unsafe { libc::_exit(ExitReason::InternalError.code()) }
}

fn write(fd: RawFd, bytes: &[u8]) {
    // SAFETY: the kernel only reads `bytes`.
    unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
}

/// Puts the record together; how long it is.
fn compose(line: &mut [u8; BEGIN.len() + DIGITS + END.len()], mut at_us: u64) -> usize {
    let (mut digits, mut first) = ([0; DIGITS], DIGITS);
    loop {
        first -= 1;
        digits[first] = b'0' + (at_us % 10) as u8;
        at_us /= 10;
        if at_us == 0 {
            break;
        }
    }
    let mut len = 0;
    for part in [BEGIN, &digits[first..], END] {
        line[len..len + part.len()].copy_from_slice(part);
        len += part.len();
    }
    len
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::Record;

    #[test]
    fn the_record_is_one() {
        for time in [0, 7, 1_234_567_890, u64::MAX] {
            let mut line = [0; BEGIN.len() + DIGITS + END.len()];
            let len = compose(&mut line, time);
            assert_eq!(line[len - 1], b'\n');
            let record: Record = serde_json::from_slice(&line[..len]).unwrap();
            let Record::Exit { reason, at_us, .. } = record else { panic!("{record:?}") };
            assert_eq!((reason, at_us), (ExitReason::InternalError, time));
        }
    }
}
