//! Limits that the kernel sets for all of the guest together, raised out of the way.
//!
//! A container that ran into one would hurt the others and the agent with it: none could fork, or open a file, any more. What holds each
//! container is its own cgroup, which counts its processes and the kernel's memory for them, its files and its watches.

use rustix::process::{Resource, Rlimit, setrlimit};
use std::fs;

const SETTINGS: [(&str, &str); 5] = [
    // Of a small guest's memory the kernel derives a thousand threads and some ten thousand open files.
    ("kernel/threads-max", "1073741823"),
    ("kernel/pid_max", "4194304"),
    ("fs/file-max", "9223372036854775807"),
    // Counted by user, and root in one container is root in the next.
    ("fs/inotify/max_user_instances", "65536"),
    // A list of all processes in the log for each one that is killed; only the line about that one is read.
    ("vm/oom_dump_tasks", "0"),
];

/// Raises them. One that can't be raised stays as it is, which is no worse than before.
pub fn raise() {
    for (name, value) in SETTINGS {
        let _ = fs::write(format!("/proc/sys/{name}"), value);
    }
    // Half of the threads above, counted by user; containers inherit it.
    let _ = setrlimit(Resource::Nproc, Rlimit { current: None, maximum: None });
}
