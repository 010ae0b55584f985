//! Is anything left behind? A picture of the machine before, one after, and the difference in words.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// All that Vial may change on a machine: links, routes, firewall rules, cgroups, processes, mounts, files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture(BTreeSet<String>);

impl Picture {
    /// Looks at the machine, and at these folders.
    pub fn take(folders: &[&Path]) -> Self {
        let mut seen = BTreeSet::new();
        lines(&mut seen, "link", &["ip", "-o", "link"], |line| {
            line.split(": ").nth(1).unwrap_or(line).to_owned()
        });
        lines(&mut seen, "nft", &["nft", "list", "ruleset"], str::to_owned);
        for family in ["-4", "-6"] {
            let ours = ["ip", family, "route", "show", "table", "all", "proto", "118"];
            lines(&mut seen, "route", &ours, str::to_owned);
        }
        lines(&mut seen, "mount", &["cat", "/proc/self/mounts"], |line| {
            line.split(' ').take(3).collect::<Vec<_>>().join(" ")
        });
        cgroups(&mut seen, Path::new("/sys/fs/cgroup"));
        processes(&mut seen);
        for folder in folders {
            files(&mut seen, folder);
        }
        Self(seen)
    }

    /// What is there now and was not before.
    pub fn since(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

fn lines(seen: &mut BTreeSet<String>, what: &str, command: &[&str], pick: impl Fn(&str) -> String) {
    let output = Command::new(command[0]).args(&command[1..]).output();
    let output = output.unwrap_or_else(|e| panic!("cannot run {}: {e}", command[0]));
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        seen.insert(format!("{what} {}", pick(line)));
    }
}

/// The cgroup folder that may stay: the slice itself is made once and holds no process.
const SLICE: &str = "/sys/fs/cgroup/vial";

fn cgroups(seen: &mut BTreeSet<String>, folder: &Path) {
    for child in entries(folder).into_iter().filter(|p| p.is_dir()) {
        if child != Path::new(SLICE) {
            seen.insert(format!("cgroup {}", child.display()));
        }
        cgroups(seen, &child);
    }
}

/// Processes of Vial; kernel threads and the test's own children do not count.
fn processes(seen: &mut BTreeSet<String>) {
    for folder in entries(Path::new("/proc")) {
        let command = fs::read(folder.join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains("vial-vmm")
            || command.contains("bin/vial ")
            || command.contains("vial-launcher")
            || command.contains("vial-net-helper")
        {
            // A zombie has an empty command line, so a dead child that the test has not reaped is not seen.
            seen.insert(format!("process {} {command}", folder.display()));
        }
    }
}

/// Every file and folder, without what the store may rightly keep changing.
fn files(seen: &mut BTreeSet<String>, folder: &Path) {
    for child in entries(folder) {
        if child.is_dir() && !child.is_symlink() {
            files(seen, &child);
        }
        seen.insert(format!("file {}", child.display()));
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect()
}
