//! One test's own Vial: folders, daemon, and the commands on it.

use crate::leftovers::Picture;
use crate::limit::{LIMIT, Limit};
use crate::story;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
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
        story::keep_failures();
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
        if std::env::var_os("VIAL_IN_TESTBED").is_some() {
            // A start may take long there; one that hangs is for the test's own limit to tell of.
            command.env("VIAL_START_TIMEOUT_S", (2 * LIMIT.as_secs()).to_string());
        }
        command
    }

    /// Runs a command to its end, without input.
    #[track_caller]
    pub fn run<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I) -> Ran {
        self.output(self.command(args))
    }

    /// Runs such a command to its end, without input.
    #[track_caller]
    pub fn output(&self, mut command: Command) -> Ran {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.wait(start(command))
    }

    /// Runs a command with this input.
    #[track_caller]
    pub fn run_with<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I, input: &[u8]) -> Ran {
        let mut child = self.spawn(args, Stdio::piped());
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // The command may rightly end before it has read all.
                let _ = stdin.write_all(input);
            });
            self.wait(child)
        })
    }

    /// Starts a command with both outputs piped. It leads a process group of its own.
    pub fn spawn<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I, stdin: Stdio) -> Child {
        let mut command = self.command(args);
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        start(command)
    }

    /// Waits for the end of a command that [`Self::spawn`] started.
    #[track_caller]
    pub fn wait(&self, child: Child) -> Ran {
        let group = -i32::try_from(child.id()).expect("process ids fit");
        self.within_limit(group, || child.wait_with_output().expect("a child can be waited for").into())
    }

    /// Does what waits for a process (or its group, if negative) and must not wait for ever: at the limit, the process is killed, and the test
    /// fails; what was seen until then is printed when this Vial goes.
    #[track_caller]
    pub fn within_limit<T>(&self, process: i32, wait: impl FnOnce() -> T) -> T {
        let run_dir = self.run_dir().to_owned();
        let limit = Limit::on(process, move || story::tell(&run_dir));
        let value = wait();
        let hung = limit.is_up();
        assert!(
            !hung,
            "the command did not end within {LIMIT:?} and was killed; see above for what ran then"
        );
        value
    }

    /// The daemon's process id, if one runs.
    pub fn daemon_pid(&self) -> Option<i32> {
        let status = self.run(["daemon", "status"]).stdout;
        let (_, after) = status.split_once("pid ")?;
        after.split(',').next()?.parse().ok()
    }

    /// The process id of the daemon's launcher: its child of that name that lives.
    pub fn launcher_pid(&self) -> Option<i32> {
        let daemon = self.daemon_pid()?;
        let processes = std::fs::read_dir("/proc").ok()?.flatten();
        let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.find(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // pid (name) state parent …
            let Some((name, rest)) = stat.rsplit_once(')') else { return false };
            let mut rest = rest.split_ascii_whitespace();
            let (state, parent) = (rest.next(), rest.next());
            name.ends_with("(vial-launcher") && state != Some("Z") && parent == Some(&daemon.to_string())
        })
    }

    /// The process ids of the VMs of this Vial, from its records.
    pub fn vmm_pids(&self) -> Vec<i32> {
        let folders = std::fs::read_dir(self.run_dir().join("vms")).into_iter().flatten().flatten();
        let records = folders.filter_map(|folder| std::fs::read(folder.path().join("process.json")).ok());
        let pid =
            |record: Vec<u8>| serde_json::from_slice::<serde_json::Value>(&record).ok()?["pid"].as_i64();
        records.filter_map(pid).filter_map(|pid| i32::try_from(pid).ok()).collect()
    }

    /// The process id of the VM that this container is in or is being started in.
    pub fn vmm_of(&self, name: &str) -> Option<i32> {
        self.vmm(&self.run(["inspect", "-f", "{{.Pod}}", name]).stdout)
    }

    /// The process id of the VM of a pod of several containers, which may be starting.
    pub fn vmm_of_pod(&self, name: &str) -> Option<i32> {
        let pods: serde_json::Value =
            serde_json::from_str(&self.run(["pod", "inspect", name]).stdout).ok()?;
        self.vmm(pods[0]["id"].as_str()?)
    }

    fn vmm(&self, pod: &str) -> Option<i32> {
        // A VM's folder is called by the beginning of its pod's id.
        let record = self.run_dir().join("vms").join(pod.get(..16)?).join("process.json");
        let record: serde_json::Value = serde_json::from_slice(&std::fs::read(record).ok()?).ok()?;
        i32::try_from(record["pid"].as_i64()?).ok().filter(|pid| *pid > 1)
    }

    /// Removes every container and pod, stops the daemon, and says what is left of them.
    pub fn clean_up(&mut self) -> Vec<String> {
        self.checked = true;
        let all = self.run(["ps", "-aq"]).stdout;
        for id in all.split_whitespace() {
            self.run(["rm", "-f", id]);
        }
        let pods = self.run(["pod", "ls", "-q"]).stdout;
        for id in pods.split_whitespace() {
            self.run(["pod", "rm", "-f", id]);
        }
        self.run(["daemon", "stop"]);
        let folders = [self.run_dir().to_owned(), self.data().join("containers"), self.data().join("tmp")];
        let folders: Vec<&Path> = folders.iter().map(PathBuf::as_path).collect();
        Picture::take(&folders).since(&self.before)
    }

    /// [`Self::leaves_nothing`] for what is cleaned away behind the back of a command that was killed: waits for it.
    #[track_caller]
    pub fn comes_to_leave_nothing(self) {
        let vms = self.run_dir().join("vms");
        let left = || Picture::take(&[]).since(&self.before);
        let empty = || {
            std::fs::read_dir(&vms)
                .map_or(0, |entries| entries.flatten().filter(|e| e.path().is_dir()).count())
                == 0
        };
        crate::talk::until("nothing is left over", || (empty() && left().is_empty()).then_some(()));
        self.leaves_nothing();
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
        if std::thread::panicking() {
            let story = story::tell(self.run_dir());
            eprintln!("{story}");
            story::keep(&story);
        }
        if !self.checked {
            self.clean_up();
        }
    }
}

fn start(mut command: Command) -> Child {
    command.process_group(0).spawn().expect("the program of the install tree can be run")
}

/// A path as text; the tests' own paths are always UTF-8.
pub fn path(path: &Path) -> &str {
    path.to_str().expect("the tests' paths are UTF-8")
}

/// The kubectl that `VIAL_KUBECTL` names, or the one on the PATH. None, when there is none on this machine.
pub fn kubectl() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("VIAL_KUBECTL") {
        return Some(named.into());
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).map(|folder| folder.join("kubectl")).find(|file| file.exists())
}

/// Sends a signal.
pub fn signal(pid: i32, signal: i32) {
    // SAFETY: kill(2) takes two integers and touches no memory of ours.
    unsafe { libc::kill(pid, signal) };
}

/// The process ids of the installed program's commands whose words contain this.
pub fn pids_of(words: &str) -> Vec<i32> {
    let program = path(&Vial::program()).to_owned();
    let folders = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = folders.filter_map(|folder| folder.file_name().to_str()?.parse().ok());
    let is_it = |pid: &i32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        command.starts_with(&program) && command.contains(words)
    };
    numbers.filter(is_it).collect()
}
