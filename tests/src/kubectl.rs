//! A real kubectl on a Vial of a test.

use crate::host::{Ran, Vial, path};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A kubectl and what it needs to reach this Vial.
pub struct Kubectl<'a> {
    vial: &'a Vial,
    program: PathBuf,
    config: PathBuf,
    /// Where it keeps what it has learnt of the server; not among what Vial has to clear away.
    home: TempDir,
}

impl<'a> Kubectl<'a> {
    /// None, when there is none on this machine.
    ///
    /// # Panics
    /// When Vial does not give it a kubeconfig.
    #[track_caller]
    pub fn of(vial: &'a Vial) -> Option<Self> {
        let program = crate::host::kubectl()?;
        let home = tempfile::tempdir().expect("a folder");
        let config = home.path().join("config");
        vial.run(["kubeconfig", "-o", path(&config)]).ok();
        Some(Self { vial, program, config, home })
    }

    /// A folder that goes with it.
    pub fn folder(&self) -> &Path {
        self.home.path()
    }

    fn command<'w>(&self, words: impl IntoIterator<Item = &'w str>) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).env("KUBECONFIG", &self.config).env("HOME", self.home.path());
        command
    }

    /// Runs it with these words, which spaces part.
    #[track_caller]
    pub fn run(&self, line: &str) -> Ran {
        self.words(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// The same with words that may have spaces in them.
    #[track_caller]
    pub fn words(&self, words: &[&str]) -> Ran {
        self.vial.output(self.command(words.iter().copied()))
    }

    /// Has all that this YAML declares.
    ///
    /// # Panics
    /// When it is refused.
    #[track_caller]
    pub fn apply(&self, yaml: &str) {
        let file = self.home.path().join("objects.yaml");
        std::fs::write(&file, yaml).expect("a file");
        self.words(&["apply", "-f", path(&file)]).ok();
    }

    /// Follows the pods with this selector until one line of these columns, in words, is as it should be; that line.
    ///
    /// # Panics
    /// When it never is.
    #[track_caller]
    pub fn until(&self, selector: &str, columns: &str, is_so: impl Fn(&[&str]) -> bool) -> String {
        let line = format!("get pods -l {selector} -w --no-headers -o custom-columns={columns}");
        let mut child =
            self.command(line.split_whitespace()).stdout(Stdio::piped()).spawn().expect("kubectl runs");
        let pid = i32::try_from(child.id()).expect("a pid");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
        let found = self.vial.within_limit(pid, || {
            let mut lines = lines;
            lines.find(|line| {
                eprintln!("{line}");
                is_so(&line.split_whitespace().collect::<Vec<_>>())
            })
        });
        // It follows for ever.
        let _ = child.kill();
        let _ = child.wait();
        found.expect("it comes to be so")
    }
}
