//! A folder with what a VM is made of, programs that tell on the SDK, and what they told.

use crate::tiny;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

/// The name of the TAP; a replay has another one of the same length.
pub const TAP: &str = "vialsdk00000000";
/// Who a jailed VMM is.
pub const USER: u32 = 12345;

/// Where one SDK acts once.
pub struct Stage {
    folder: tempfile::TempDir,
    proxies: Receiver<(UnixStream, JoinHandle<Vec<Value>>)>,
    files: Mutex<BTreeMap<String, &'static str>>,
    texts: Mutex<BTreeMap<String, String>>,
    tap: Mutex<Option<&'static str>>,
}

#[derive(Serialize)]
struct Recording<'a> {
    sdk: &'a str,
    folder: &'a Path,
    tap: Option<&'static str>,
    files: &'a BTreeMap<String, &'static str>,
    texts: &'a BTreeMap<String, String>,
    command: Value,
    exchanges: Vec<Value>,
}

impl Stage {
    pub fn new(real: &Path) -> Self {
        // A replay has another folder of the same length, so that not one byte moves. firecracker-python finds no capital letters.
        let name = format!("vial-sdk-{:06}", std::process::id() % 1_000_000);
        let folder = tempfile::Builder::new().prefix(&name).rand_bytes(0).tempdir_in("/tmp").expect("room");
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("bin")).expect("room");
        for name in ["firecracker", "jailer"] {
            std::fs::copy(std::env::current_exe().expect("known"), at("bin").join(name)).expect("room");
        }
        std::os::unix::fs::symlink(real, at("real")).expect("a fresh folder");
        let listener = UnixListener::bind(at("recorder")).expect("a fresh folder");
        let (sender, proxies) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let reading = stream.try_clone().expect("descriptors are left");
                let lines = std::thread::spawn(move || {
                    let lines = BufReader::new(reading).lines().map_while(Result::ok);
                    lines.map(|line| serde_json::from_str(&line).expect("the proxy writes JSON")).collect()
                });
                if sender.send((stream, lines)).is_err() {
                    return;
                }
            }
        });
        let stage =
            Self { folder, proxies, files: Mutex::default(), texts: Mutex::default(), tap: Mutex::default() };
        // `jmp` to itself.
        std::fs::write(stage.at("kernel"), tiny::kernel(&[0xeb, 0xfe])).expect("room");
        std::fs::write(stage.at("disk"), [0; 1 << 20]).expect("room");
        stage
    }

    /// A path in the folder.
    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same as text.
    pub fn text(&self, name: &str) -> String {
        self.at(name).into_os_string().into_string().expect("made of ASCII")
    }

    /// What the VMM found at paths of the folder when it was asked: `kernel`, `disk` (1 MiB), `empty`, `fifo`.
    pub fn found(&self, files: &[(&str, &'static str)]) {
        self.files
            .lock()
            .expect("whole")
            .extend(files.iter().map(|(path, kind)| ((*path).to_owned(), *kind)));
    }

    /// A file that the SDK wrote for the VMM, as it is now.
    pub fn found_text(&self, name: &str) {
        let text = std::fs::read_to_string(self.at(name)).expect("the SDK wrote it");
        self.texts.lock().expect("whole").insert(name.to_owned(), text);
    }

    /// Makes the TAP.
    pub fn tap(&self) {
        ip(&["tuntap", "add", "dev", TAP, "mode", "tap"]);
        self.tap_was(TAP);
    }

    /// The TAP's name, where the SDK made one.
    pub fn tap_was(&self, name: &'static str) {
        *self.tap.lock().expect("whole") = Some(name);
    }

    /// Writes what was recorded.
    pub fn keep(self, sdk: &str, path: &Path) {
        let (stream, lines) = self.proxies.recv().expect("a program was started");
        // Its VMM has ended, and with it every connection.
        let _ = stream.shutdown(Shutdown::Write);
        let mut lines = lines.join().expect("the proxy writes JSON");
        let command = lines.remove(0)["command"].take();
        lines.sort_by_key(|line| line["number"].as_u64());
        for line in &mut lines {
            line.as_object_mut().expect("a line is an object").shift_remove("number");
        }
        let files = self.files.lock().expect("whole");
        let texts = self.texts.lock().expect("whole");
        let tap = *self.tap.lock().expect("whole");
        let folder = self.folder.path();
        let recording =
            Recording { sdk, folder, tap, files: &files, texts: &texts, command, exchanges: lines };
        let text = serde_json::to_string_pretty(&recording).expect("it is JSON") + "\n";
        std::fs::write(path, text).expect("a folder for recordings");
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if *self.tap.lock().expect("whole") == Some(TAP) {
            ip(&["link", "del", TAP]);
        }
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {arguments:?}");
}
