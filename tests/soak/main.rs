//! `tools/soak`: random operations and random kill -9, with an oracle.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use vial_tests::soak::{Of, Until, run};

/// Somebody wants the end: the step that is on is finished, and all is removed that was made.
static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn stop(_: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

/// The first Ctrl-C (or SIGTERM, SIGHUP) asks for the end; the second one is not held back.
fn listen() {
    let handler: extern "C" fn(libc::c_int) = stop;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: a zeroed sigaction is a valid one, and the handler does nothing but store into an atomic.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as libc::sighandler_t;
            action.sa_flags = libc::SA_RESTART | libc::SA_RESETHAND;
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
}

fn main() {
    let mut words = std::env::args().skip(1);
    let (mut of, mut seed, mut until) = (Of::Containers, None, Until::For(Duration::from_secs(60)));
    while let Some(word) = words.next() {
        if word == "--declared" {
            of = Of::Declared;
            continue;
        }
        let number = words.next().and_then(|word| word.parse::<u64>().ok());
        match (word.as_str(), number) {
            ("--seed", Some(number)) => seed = Some(number),
            ("--rounds", Some(number)) => until = Until::Rounds(number),
            ("--seconds", Some(number)) => until = Until::For(Duration::from_secs(number)),
            _ => {
                eprintln!("usage: soak [--declared] [--seconds N | --rounds N] [--seed N]");
                std::process::exit(2);
            }
        }
    }
    let seed = seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        u64::from(now.subsec_nanos()) ^ now.as_secs()
    });
    listen();
    match run(of, seed, until, &STOP) {
        Ok(rounds) if STOP.load(Ordering::Relaxed) => {
            println!("{rounds} rounds passed before it was interrupted");
            std::process::exit(130);
        }
        Ok(rounds) => println!("{rounds} rounds passed"),
        Err(broken) => {
            println!("{broken}");
            std::process::exit(1);
        }
    }
}
