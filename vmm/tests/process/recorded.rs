//! What published SDKs asked of the programs, byte for byte, asked again.
//!
//! `tests/sdk-recorder/record` made the recordings: command line, requests and answers of SDKs that drove the real programs and were content with
//! every answer. A replay has the same statuses, and answers of the same form. Folder and TAP have other names of the same length.

use crate::common::{Process, SPIN, kernel, kvm};
use crate::http::Http;
use crate::jailer::{put_libraries, root};
use crate::tap::Tap;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use vmm::api::status::ExitReason;

#[derive(Deserialize)]
struct Recording {
    folder: PathBuf,
    tap: Option<String>,
    /// What the VMM found where.
    files: BTreeMap<PathBuf, String>,
    texts: BTreeMap<PathBuf, String>,
    command: Vec<String>,
    exchanges: Vec<Exchange>,
}

#[derive(Deserialize)]
struct Exchange {
    connection: u64,
    request: String,
    answer: String,
}

/// Status and document of an answer.
fn parts(answer: &str) -> (u16, &str) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body)
}

/// A document with nothing in it but names and kinds of values.
fn form(document: &str) -> Value {
    fn blank(value: Value) -> Value {
        match value {
            Value::Object(fields) => Value::Object(
                fields.into_iter().map(|(name, value)| (name, blank(value))).collect::<Map<_, _>>(),
            ),
            Value::Array(values) => Value::Array(values.into_iter().map(blank).collect()),
            Value::String(_) => "".into(),
            Value::Number(_) => 0.into(),
            Value::Bool(_) => false.into(),
            Value::Null => Value::Null,
        }
    }
    if document.is_empty() { Value::Null } else { blank(serde_json::from_str(document).unwrap()) }
}

/// A name as long as `name` that no other replay has.
fn other_tap(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = std::process::id() * 16 + NEXT.fetch_add(1, Ordering::Relaxed);
    format!("t{number:0>width$}", width = name.len() - 1)
}

fn connect(socket: &Path) -> UnixStream {
    // As every SDK does: there is nothing else to wait for.
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return stream,
            Err(error) if [ErrorKind::NotFound, ErrorKind::ConnectionRefused].contains(&error.kind()) => {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            Err(error) => panic!("{}: {error}", socket.display()),
        }
    }
}

/// Where files are in a jail.
struct Jail {
    folder: PathBuf,
    user: u32,
    daemon: bool,
}

impl Recording {
    /// With other names for what can not be there twice.
    fn read(text: &str, folder: &Path) -> Self {
        let recorded: Self = serde_json::from_str(text).unwrap();
        let (before, after) = (recorded.folder.to_str().unwrap(), folder.to_str().unwrap());
        assert_eq!(before.len(), after.len());
        let mut text = text.replace(before, after);
        if let Some(tap) = recorded.tap {
            text = text.replace(&tap, &other_tap(&tap));
        }
        serde_json::from_str(&text).unwrap()
    }

    fn option(&self, name: &str) -> Option<&str> {
        let at = self.command.iter().position(|argument| argument == name)?;
        Some(&self.command[at + 1])
    }

    fn jail(&self) -> Option<Jail> {
        (self.command[0] == "jailer").then(|| Jail {
            folder: Path::new(self.option("--chroot-base-dir").unwrap())
                .join("firecracker")
                .join(self.option("--id").unwrap())
                .join("root"),
            user: self.option("--uid").unwrap().parse().unwrap(),
            daemon: self
                .command
                .iter()
                .any(|argument| ["--daemonize", "--new-pid-ns"].contains(&argument.as_str())),
        })
    }

    /// Puts everything where it was; what is to stay open meanwhile.
    fn furnish(&self) -> Vec<File> {
        let mut open = Vec::new();
        for (path, what) in &self.files {
            let path = self.folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match what.as_str() {
                "kernel" => fs::write(path, kernel(SPIN)).unwrap(),
                "disk" => File::create(path).unwrap().set_len(2 << 20).unwrap(),
                "empty" => fs::write(path, "").unwrap(),
                "fifo" => {
                    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
                    open.push(File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap());
                }
                other => panic!("{other}"),
            }
        }
        for (path, text) in &self.texts {
            fs::write(self.folder.join(path), text).unwrap();
        }
        if let Some(jail) = self.jail() {
            put_libraries(&jail.folder);
            fs::create_dir(self.folder.join("bin")).unwrap();
            fs::copy(env!("CARGO_BIN_EXE_vial-vmm"), self.folder.join("bin/firecracker")).unwrap();
            for path in self.files.keys() {
                chown(self.folder.join(path), Some(jail.user), Some(jail.user)).unwrap();
            }
        }
        open
    }

    /// Where the API is, from outside.
    fn socket(&self) -> PathBuf {
        let socket = self.option("--api-sock").unwrap();
        match self.jail() {
            Some(jail) => jail.folder.join(socket.trim_start_matches('/')),
            None => socket.into(),
        }
    }

    fn spawn(&self) -> Process {
        let program = match self.command[0].as_str() {
            "jailer" => env!("CARGO_BIN_EXE_vial-jailer"),
            _ => env!("CARGO_BIN_EXE_vial-vmm"),
        };
        Process(Command::new(program).args(&self.command[1..]).stdout(Stdio::null()).spawn().unwrap())
    }
}

fn replay(text: &str) {
    let folder = tempfile::Builder::new().prefix("vial-sdk-").rand_bytes(6).tempdir_in("/tmp").unwrap();
    let recording = Recording::read(text, folder.path());
    if !kvm() || (recording.tap.is_some() || recording.jail().is_some()) && !root() {
        return;
    }
    let _open = recording.furnish();
    let _tap = recording.tap.as_deref().map(Tap::new);
    let mut child = recording.spawn();
    let mut connections = BTreeMap::new();
    for (at, Exchange { connection, request, answer }) in recording.exchanges.iter().enumerate() {
        let http = connections
            .entry(connection)
            .or_insert_with(|| Http(std::io::BufReader::new(connect(&recording.socket()))));
        http.send(request.as_bytes());
        let answered = http.answer().unwrap_or_else(|| panic!("no answer to {request}"));
        let (status, body) = parts(answer);
        assert_eq!(answered.status, status, "{request}\n{answered:?}");
        assert_eq!(form(&answered.body), form(body), "{request}\n{answered:?}");
        let later = &recording.exchanges[at + 1..];
        if !later.is_empty() && later.iter().all(|exchange| exchange.connection != *connection) {
            connections.remove(connection);
        }
    }
    // Whatever the SDK did with the process then.
    let jail = recording.jail();
    let process = match &jail {
        Some(jail) => fs::read_to_string(jail.folder.join("firecracker.pid")).unwrap().parse().unwrap(),
        None => child.0.id(),
    };
    // SAFETY: a signal to a process that still serves a connection.
    assert_eq!(unsafe { libc::kill(process.cast_signed(), libc::SIGTERM) }, 0);
    let daemon = jail.is_some_and(|jail| jail.daemon);
    let code = child.0.wait().unwrap().code();
    assert_eq!(code, Some(if daemon { 0 } else { ExitReason::Stopped.code() }));
    for http in connections.values_mut() {
        assert_eq!(http.0.read(&mut [0]).unwrap(), 0);
    }
}

macro_rules! replays {
    ($($test:ident: $file:literal,)*) => { $(
        #[test]
        fn $test() {
            replay(include_str!(concat!("recordings/", $file, ".json")));
        }
    )* };
}

replays! {
    fctools_configures_a_vm_by_requests: "fctools",
    fctools_configures_a_vm_by_a_file: "fctools-configuration-file",
    fctools_jails_a_vm_in_a_pid_namespace: "fctools-jailed",
    fctools_jails_a_vm_as_a_daemon: "fctools-jailed-daemon",
    firecracker_rs_sdk_drives_a_vm: "firecracker-rs-sdk",
    firecracker_rs_sdk_jails_a_vm: "firecracker-rs-sdk-jailed",
    firepilot_drives_a_vm: "firepilot",
    firecracker_python_creates_and_deletes_a_vm: "firecracker-python",
}
