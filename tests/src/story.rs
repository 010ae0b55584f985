//! What is known of a Vial when a test has failed: processes, logs, consoles.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

/// What failed until now: the test harness prints it at its own end, which the program may not live to see.
static FAILURES: Mutex<String> = Mutex::new(String::new());

/// From now on, keeps what panics say.
pub fn keep_failures() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let thread = std::thread::current();
            keep(&format!("{}: {panic}", thread.name().unwrap_or("a thread")));
            before(panic);
        }));
    });
}

/// Keeps this with the failures.
pub fn keep(text: &str) {
    let mut failures = FAILURES.lock().unwrap_or_else(PoisonError::into_inner);
    failures.push_str(text);
    failures.push('\n');
}

/// What was kept.
#[must_use]
pub fn failures() -> String {
    FAILURES.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Lines that are kept of each file.
const LINES: usize = 40;

/// Tells it.
pub fn tell(run_dir: &Path) -> String {
    let mut story = processes();
    file(&mut story, &run_dir.join("daemon.log"));
    for vm in entries(&run_dir.join("vms")) {
        for name in ["status.jsonl", "vmm.log", "console.log"] {
            file(&mut story, &vm.join(name));
        }
    }
    story
}

/// The same of a VMM without a daemon.
#[must_use]
pub fn of_vmm(console: &Path) -> String {
    let mut story = processes();
    file(&mut story, console);
    story
}

fn processes() -> String {
    let mut story = String::from("--- processes\n");
    // Twice what the threads of VMMs have used of a processor: does one run, or wait?
    let threads = ["-L", "-o", "pid,tid,stat,wchan:24,cputimes,comm", "-C", "vial-vmm"];
    for args in [&["-eo", "pid,ppid,pgid,stat,wchan:24,etime,args"][..], &threads, &threads] {
        let lines = Command::new("ps").args(args).output();
        let lines = lines.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        for line in lines.unwrap_or_default().lines().filter(|line| !line.ends_with(']')) {
            let _ = writeln!(story, "{line}");
        }
        if args == threads {
            std::thread::sleep(Duration::from_secs(2));
        }
    }
    story
}

fn file(story: &mut String, path: &Path) {
    let Ok(bytes) = std::fs::read(path) else { return };
    let text = String::from_utf8_lossy(&bytes);
    let _ = writeln!(story, "--- the end of {}", path.display());
    let lines: Vec<&str> = text.lines().collect();
    for line in &lines[lines.len().saturating_sub(LINES)..] {
        // Escaped, because a guest may have written it.
        let _ = writeln!(story, "{}", line.escape_debug());
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}
