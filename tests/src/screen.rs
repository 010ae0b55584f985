//! A person at a terminal: a real terminal multiplexer (tmux) whose keys are typed and whose screen is read.

use crate::host::{Vial, path};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Nothing on a screen takes a tenth of it; what does has hung.
const BOUND: Duration = Duration::from_secs(90);

/// What the shell on the host says before the exit status of what ran in it.
const STATUS: &str = "ended with";

/// One terminal with a shell of the host in it.
pub struct Screen {
    folder: TempDir,
    /// Something for each time that the screen may have changed.
    news: Receiver<()>,
}

impl Screen {
    /// A terminal of this size. `vial` in its shell is the installed program with this Vial's folders.
    pub fn open(vial: &Vial, cols: u16, rows: u16) -> Self {
        let folder = tempfile::Builder::new().prefix("screen-").tempdir_in("/run").expect("a folder");
        let (fifo, profile) = (folder.path().join("news"), folder.path().join("profile"));
        let made = Command::new("mkfifo").arg(&fifo).status().expect("mkfifo can be run");
        assert!(made.success());
        let script = format!(
            "PS1='host$ '; VIAL={}; vial() {{ $VIAL \"$@\"; echo {STATUS} $?; }}\n",
            path(&Vial::program())
        );
        std::fs::write(&profile, script).expect("the folder can be written");
        let (sender, news) = channel();
        let screen = Self { folder, news };
        let size = ["-x", &cols.to_string(), "-y", &rows.to_string()].map(str::to_owned);
        let environment = [("VIAL_DATA_DIR", vial.data()), ("VIAL_RUN_DIR", vial.run_dir())]
            .map(|(name, value)| ["-e".to_owned(), format!("{name}={}", value.display())]);
        let mut start = vec!["-u".to_owned(), "-f/dev/null".into(), "new-session".into(), "-d".into()];
        start.extend(size.into_iter().chain(environment.concat()));
        start.push(format!("exec bash --rcfile {} -i", path(&profile)));
        screen.tmux(&start);
        // Its end of the pipe: what the shell and its programs write, as a sign to look again.
        std::thread::spawn(move || {
            let Ok(mut written) = File::open(fifo) else { return };
            let mut bytes = [0; 4096];
            while written.read(&mut bytes).is_ok_and(|count| count > 0) && sender.send(()).is_ok() {}
        });
        screen.tmux(&["pipe-pane".to_owned(), format!("exec cat > {}/news", path(screen.folder.path()))]);
        screen.keys(&["C-l"]);
        screen.shows("host$");
        screen
    }

    fn tmux<S: AsRef<OsStr>>(&self, args: &[S]) -> String {
        let mut tmux = Command::new("tmux");
        tmux.arg("-S")
            .arg(self.folder.path().join("socket"))
            .args(args)
            .env("TERM", "xterm")
            .env_remove("TMUX");
        let output = tmux.output().expect("tmux can be run; tools/test installs it");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Presses keys by tmux's names (`C-c`, `Enter`, `Left`, `BSpace`, …).
    pub fn keys(&self, names: &[&str]) {
        self.tmux(&[&["send-keys"], names].concat());
    }

    /// Types a text as it is.
    pub fn types(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
    }

    /// Types a text and Enter.
    pub fn line(&self, text: &str) {
        self.types(text);
        self.keys(&["Enter"]);
    }

    /// What is on it now.
    pub fn text(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits until it shows this; gives the whole screen.
    #[track_caller]
    pub fn shows(&self, what: &str) -> String {
        self.until(&format!("{what:?}"), |text| text.contains(what))
    }

    /// Waits until the last line that is not empty ends so: a prompt, after which typing makes sense.
    #[track_caller]
    pub fn prompts(&self, prompt: &str) -> String {
        self.until(&format!("the prompt {prompt:?}"), |text| {
            text.trim_end().lines().last().is_some_and(|line| line.trim_end().ends_with(prompt.trim_end()))
        })
    }

    /// Waits until the command line has ended with this status and the shell of the host prompts again.
    #[track_caller]
    pub fn ends_with(&self, status: i32) -> String {
        let said = format!("{STATUS} {status}\n");
        self.until(&said, |text| text.contains(&said) && text.trim_end().ends_with("host$"))
    }

    /// Waits until the screen is as wanted, looking whenever something was written to it.
    #[track_caller]
    pub fn until(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + BOUND;
        loop {
            let text = self.text();
            if wanted(&text) {
                return text;
            }
            // Several writes are one look.
            let changed = self.news.recv_timeout(end.saturating_duration_since(Instant::now()));
            while self.news.try_recv().is_ok() {}
            assert!(changed.is_ok(), "the screen never showed {what}; it is\n{}", self.text());
        }
    }

    /// Empties the screen of the host's shell, so that what is seen next is new.
    pub fn clear(&self) {
        self.keys(&["C-l"]);
        self.until("an empty screen", |text| text.trim() == "host$");
    }

    /// Drags its corner.
    pub fn resize(&self, cols: u16, rows: u16) {
        self.tmux(&["resize-window", "-x", &cols.to_string(), "-y", &rows.to_string()]);
    }

    /// Pulls its plug: the terminal is gone, and the kernel tells whoever ran on it.
    pub fn vanishes(self) {}
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}
