//! A Vial with folders of its own.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

pub struct Home {
    dir: TempDir,
}

impl Home {
    pub fn new() -> Self {
        let home = Self { dir: TempDir::new().unwrap() };
        std::fs::create_dir(home.path("config")).unwrap();
        std::fs::create_dir(home.path("docker")).unwrap();
        home
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vial"));
        command.args(args).stdin(Stdio::null());
        command.env("VIAL_DATA_DIR", self.path("data")).env("VIAL_RUN_DIR", self.path("run"));
        command.env("VIAL_LIB_DIR", self.path("lib")).env("VIAL_CONFIG_DIR", self.path("config"));
        command.env("DOCKER_CONFIG", self.path("docker"));
        // A registry that stalls must not stall the test, and one that cuts is given up soon.
        command.env("VIAL_REGISTRY_TIMEOUT_S", "1").env("VIAL_REGISTRY_ATTEMPTS", "1");
        for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
            command.env_remove(proxy);
        }
        command
    }

    /// Starts a daemon whose patience is longer than any test: what ends a transfer is not the time-out.
    pub fn patient_daemon(&self) {
        let status = self.command(&["images", "-q"]).env("VIAL_REGISTRY_TIMEOUT_S", "600").status();
        assert!(status.unwrap().success());
    }

    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Fails with these words; returns all of standard error.
    #[track_caller]
    pub fn fails(&self, args: &[&str], says: &str) -> String {
        let output = self.command(args).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{args:?} succeeded");
        assert!(stderr.contains(says), "{args:?}: {stderr:?} lacks {says:?}");
        stderr
    }

    pub fn spawn(&self, args: &[&str]) -> Running {
        let mut command = self.command(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Running { child, stderr }
    }

    pub fn daemon_pid(&self) -> i32 {
        let status = self.ok(&["daemon", "status"]);
        status.split_once("pid ").unwrap().1.split(',').next().unwrap().parse().unwrap()
    }

    /// Stops the daemon, which waits for what it has to clean up; what the store then has besides its locks.
    pub fn store_files(&self) -> Vec<String> {
        self.command(&["daemon", "stop"]).output().unwrap();
        let mut found = Vec::new();
        for folder in ["images", "layers", "merged", "tmp"] {
            let dir = self.path("data/images").join(folder);
            let entries = std::fs::read_dir(dir).unwrap();
            found.extend(
                entries.map(|entry| format!("{folder}/{}", entry.unwrap().file_name().to_str().unwrap())),
            );
        }
        found
    }

    #[track_caller]
    pub fn store_is_empty(&self) {
        assert_eq!(self.store_files(), Vec::<String>::new());
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = self.command(&["daemon", "stop"]).output();
    }
}

pub struct Running {
    pub child: Child,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Running {
    /// Reads standard error to a line with these words.
    pub fn wait_for(&mut self, words: &str) {
        let mut line = String::new();
        while !line.contains(words) {
            line.clear();
            assert!(self.stderr.read_line(&mut line).unwrap() > 0, "it ended before it said {words:?}");
        }
    }

    pub fn end(mut self) -> (bool, String) {
        let mut rest = String::new();
        self.stderr.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().success(), rest)
    }

    pub fn signal(&self, name: &str) {
        signal(self.child.id() as i32, name);
    }
}

pub fn signal(pid: i32, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().unwrap();
    assert!(status.success());
}
