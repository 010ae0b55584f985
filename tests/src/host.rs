//! One test's own Vial: folders, daemon, and the commands on it.

use crate::leftovers::Picture;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

/// A Vial with folders of its own; its end checks that nothing is left.
pub struct Vial {
    data: TempDir,
    run: TempDir,
    before: Picture,
    checked: bool,
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; 128 + signal when a signal ended it.
    pub code: i32,
    /// Standard output as text.
    pub stdout: String,
    /// Standard error as text.
    pub stderr: String,
}

impl Ran {
    /// The output of a command that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout
    }

    /// A command that must have failed with this code and said this.
    #[track_caller]
    pub fn fails(self, code: i32, says: &str) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        assert!(self.stderr.contains(says), "stderr lacks {says:?}: {}", self.stderr);
        self
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0)),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Default for Vial {
    fn default() -> Self {
        Self::new()
    }
}

impl Vial {
    /// Fresh folders, no image, no daemon yet: the first command starts it.
    pub fn new() -> Self {
        // The data folder must lie on a real disk: the emulated host's root is memory over a share.
        let base = Path::new("/var/lib/vial");
        std::fs::create_dir_all(base).expect("the data folder can be made");
        let data = tempfile::Builder::new().prefix("test-").tempdir_in(base).expect("a data folder");
        let run = tempfile::Builder::new().prefix("vial-").tempdir_in("/run").expect("a run folder");
        Self { data, run, before: Picture::take(&[]), checked: false }
    }

    /// The same, with busybox loaded.
    pub fn with_busybox() -> Self {
        let vial = Self::new();
        vial.run(["load", "-q", "-i", path(&crate::fixtures::busybox())]).ok();
        vial
    }

    /// The installed program.
    pub fn program() -> PathBuf {
        match std::env::var_os("VIAL_BIN") {
            Some(path) => path.into(),
            None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/dist/bin/vial"),
        }
    }

    /// Where this Vial keeps what must last.
    pub fn data(&self) -> &Path {
        self.data.path()
    }

    /// Where its sockets are.
    pub fn run_dir(&self) -> &Path {
        self.run.path()
    }

    /// A command, not yet started.
    pub fn command<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I) -> Command {
        let mut command = Command::new(Self::program());
        command.args(args).env("VIAL_DATA_DIR", self.data()).env("VIAL_RUN_DIR", self.run_dir());
        command
    }

    /// Runs a command to its end, without input.
    pub fn run<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I) -> Ran {
        let output = self.command(args).stdin(Stdio::null()).output();
        output.expect("the program of the install tree can be run").into()
    }

    /// Runs a command with this input.
    pub fn run_with<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I, input: &[u8]) -> Ran {
        let mut child = self.spawn(args, Stdio::piped());
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // The command may rightly end before it has read all.
                let _ = stdin.write_all(input);
            });
            child.wait_with_output().expect("a child can be waited for").into()
        })
    }

    /// Starts a command with both outputs piped.
    pub fn spawn<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I, stdin: Stdio) -> Child {
        let mut command = self.command(args);
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the program of the install tree can be run")
    }

    /// The daemon's process id, if one runs.
    pub fn daemon_pid(&self) -> Option<i32> {
        let status = self.run(["daemon", "status"]).stdout;
        let (_, after) = status.split_once("pid ")?;
        after.split(',').next()?.parse().ok()
    }

    /// The process ids of the VMs of this Vial, from its records.
    pub fn vmm_pids(&self) -> Vec<i32> {
        let folders = std::fs::read_dir(self.run_dir().join("vms")).into_iter().flatten().flatten();
        let records = folders.filter_map(|folder| std::fs::read(folder.path().join("process.json")).ok());
        let pid =
            |record: Vec<u8>| serde_json::from_slice::<serde_json::Value>(&record).ok()?["pid"].as_i64();
        records.filter_map(pid).filter_map(|pid| i32::try_from(pid).ok()).collect()
    }

    /// Removes every container, stops the daemon, and says what is left of them.
    pub fn clean_up(&mut self) -> Vec<String> {
        self.checked = true;
        let all = self.run(["ps", "-aq"]).stdout;
        for id in all.split_whitespace() {
            self.run(["rm", "-f", id]);
        }
        self.run(["daemon", "stop"]);
        let folders = [self.run_dir().to_owned(), self.data().join("containers"), self.data().join("tmp")];
        let folders: Vec<&Path> = folders.iter().map(PathBuf::as_path).collect();
        Picture::take(&folders).since(&self.before)
    }

    /// The end of a test: nothing may be left.
    #[track_caller]
    pub fn leaves_nothing(mut self) {
        let mut left = self.clean_up();
        // What a stopped daemon may leave in its run folder, to be used by the next: its locks, its log, and the folder
        // for VMs, which must be empty.
        let vms = format!("file {}", self.run_dir().join("vms").display());
        left.retain(|line| !line.ends_with(".log") && !line.ends_with(".lock") && *line != vms);
        assert!(left.is_empty(), "left over:\n{}", left.join("\n"));
    }
}

impl Drop for Vial {
    fn drop(&mut self) {
        if !self.checked {
            self.clean_up();
        }
    }
}

/// A path as text; the tests' own paths are always UTF-8.
pub fn path(path: &Path) -> &str {
    path.to_str().expect("the tests' paths are UTF-8")
}

/// Sends a signal.
pub fn signal(pid: i32, signal: i32) {
    // SAFETY: kill(2) takes two integers and touches no memory of ours.
    unsafe { libc::kill(pid, signal) };
}
