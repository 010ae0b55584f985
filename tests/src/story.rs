//! What is known of a Vial when a test has failed: processes, logs, consoles.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines that are kept of each file.
const LINES: usize = 40;

/// Tells it.
pub fn tell(run_dir: &Path) -> String {
    let mut story = String::from("--- processes\n");
    let processes = Command::new("ps").args(["-eo", "pid,ppid,pgid,stat,wchan:24,etime,args"]).output();
    let processes = processes.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    for line in processes.unwrap_or_default().lines().filter(|line| !line.ends_with(']')) {
        let _ = writeln!(story, "{line}");
    }
    file(&mut story, &run_dir.join("daemon.log"));
    for vm in entries(&run_dir.join("vms")) {
        for name in ["status.jsonl", "vmm.log", "console.log"] {
            file(&mut story, &vm.join(name));
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
