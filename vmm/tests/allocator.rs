//! What the allocator asks the kernel for when memory comes and goes must be in every thread's filter: also what it asks only now and then.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use vmm::api::config::Profile;
use vmm::seccomp::{Filter, Thread, Uses};

/// Says which kind of thread this process, a child of the test, is to be.
const KIND: &str = "VMM_ALLOCATOR_TEST";
const KINDS: [(&str, Thread); 5] = [
    ("vmm", Thread::Vmm),
    ("vcpu", Thread::Vcpu),
    ("loader", Thread::Loader),
    ("io", Thread::Io),
    ("api", Thread::Api),
];

/// Fills `mib` MiB with pieces of many sizes, none so large that it gets a mapping of its own, and gives all back. The lowest goes first and
/// the highest last, then the other way round: the allocator's heaps shrink from their ends.
fn fill_and_free(mib: usize) {
    for round in 0..4 {
        let mut pieces = Vec::new();
        let mut left = mib << 20;
        while left > 0 {
            let size = (64 + pieces.len() * 977 % (96 << 10)).min(left);
            pieces.push(vec![round as u8; size]);
            left -= size;
        }
        if round % 2 == 0 {
            pieces.reverse();
        }
        pieces.drain(..).for_each(drop);
    }
}

fn child(kind: &str) {
    vmm::sys::share_arena();
    let (_, thread) = *KINDS.iter().find(|(name, _)| *name == kind).expect("the test names a kind");
    let filter = Filter::new(thread, Profile::Pod, Uses::default()).expect("the lists compile");
    let work = move || {
        // What was made before the filter is freed behind it too.
        let before: Vec<Vec<u8>> = (0..200).map(|_| vec![1; 10_000]).collect();
        filter.apply().expect("the kernel has filters");
        drop(before);
        for mib in [1, 2, 8, 70] {
            fill_and_free(mib);
        }
    };
    match thread {
        Thread::Vmm => work(),
        _ => std::thread::spawn(work).join().expect("the thread ends by itself"),
    }
    std::process::exit(0);
}

fn main() {
    if let Ok(kind) = std::env::var(KIND) {
        return child(&kind);
    }
    for (kind, _) in KINDS {
        let this = std::env::current_exe().expect("/proc is there");
        let status = Command::new(this).env(KIND, kind).status().expect("this program can be started");
        assert_eq!((status.code(), status.signal()), (Some(0), None), "a thread of kind {kind}");
        println!("{kind} threads fill and free memory");
    }
}
