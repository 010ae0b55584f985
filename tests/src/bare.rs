//! `vial-vmm` alone, without launcher or daemon, under Linux: what it boots, what its guest says, and its two sockets.

use crate::fixtures;
use crate::host::Vial;
use crate::limit::Limit;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// A part of the installation: the VMM, or what lies beside it.
pub fn part(name: &str) -> PathBuf {
    let program = std::fs::canonicalize(Vial::program()).expect("the program is installed");
    program.parent().and_then(Path::parent).expect("it is in a bin folder").join("lib/vial").join(name)
}

/// A word of the kernel's command line that has the fixtures' init run `lines`. A shell's keywords have to stand in one word as such, so
/// the word makes the script from octal numbers: some 400 characters are what fits.
pub fn script(lines: &[&str]) -> String {
    let octal: String = lines.join("\n").bytes().map(|byte| format!("\\{byte:03o}")).collect();
    format!("script=eval${{IFS}}\"$(printf${{IFS}}'{octal}')\"")
}

/// A script that is too long for that, as a disk of whole sectors, filled up with empty lines.
pub fn write_script(disk: &Path, lines: &str) {
    let mut script = lines.to_owned() + "\n";
    script.extend(std::iter::repeat_n('\n', script.len().next_multiple_of(512) - script.len()));
    std::fs::write(disk, script).expect("the folder is writable");
}

/// A kernel command line that runs `lines` and has the console heard.
pub fn command_line(lines: &[&str]) -> String {
    format!("console=hvc0 quiet panic=-1 {}", script(lines))
}

/// `boot-source`: our own kernel, with these lines as its only program.
pub fn busybox(lines: &[&str]) -> Value {
    json!({
        "kernel_image_path": part("vmlinux"),
        "initrd_path": fixtures::busybox_initrd(),
        "boot_args": command_line(lines),
    })
}

/// `vial`: a console that [`Vmm`] hears, and the control socket that it asks.
pub fn heard(folder: &Path) -> Value {
    json!({"console": {"output": "/dev/stdout"}, "control": folder.join("control")})
}

/// A VM under way; a test that fails takes it along.
pub struct Vmm {
    child: Child,
    console: BufReader<std::process::ChildStdout>,
    folder: PathBuf,
    /// What it has said so far.
    pub seen: String,
    _limit: Limit,
}

impl Vmm {
    /// Runs the VMM with this configuration, which is kept in `folder` as its sockets are.
    pub fn start(folder: &Path, config: &Value) -> Self {
        let document = folder.join("config.json");
        std::fs::write(&document, config.to_string()).expect("the folder is writable");
        let mut command = Command::new(part("vial-vmm"));
        let command = command.arg("--config-file").arg(document).arg("--api-sock").arg(folder.join("api"));
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the VMM can be run");
        let console = BufReader::new(child.stdout.take().expect("it is a pipe"));
        // What it said was read already.
        let limit = Limit::on_vmm(&child, Path::new("/dev/null"));
        Self { child, console, folder: folder.to_owned(), seen: String::new(), _limit: limit }
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        let read = self.console.read_until(b'\n', &mut line).expect("the console can be read");
        let line = String::from_utf8_lossy(&line).replace('\r', "");
        self.seen += &line;
        (read > 0).then(|| line.trim_end().to_owned())
    }

    /// The next line that begins with this word, without it.
    pub fn says(&mut self, word: &str) -> String {
        while let Some(line) = self.line() {
            if let Some(rest) = line.strip_prefix(word) {
                return rest.trim().to_owned();
            }
        }
        panic!("the guest ended without {word:?}:\n{}", self.seen)
    }

    /// Waits for its end; how it ended, and what it said besides.
    pub fn end(mut self) -> (ExitStatus, String) {
        while self.line().is_some() {}
        (self.child.wait().expect("it is our child"), std::mem::take(&mut self.seen))
    }

    /// A request of the control socket under way: its answer is a line that can be read.
    pub fn ask(&self, request: &Value) -> Answer {
        let mut stream = UnixStream::connect(self.folder.join("control")).expect("the VMM listens");
        writeln!(stream, "{request}").expect("it reads");
        Answer(BufReader::new(stream))
    }

    /// Has the control socket do something.
    pub fn does(&self, request: &Value) {
        let answer = self.ask(request).line();
        assert!(answer.contains("\"state\""), "{request}: {answer}");
    }

    /// A request of the HTTP API under way.
    pub fn http(&self, method: &str, path: &str, body: &str) -> Answer {
        let mut stream = UnixStream::connect(self.folder.join("api")).expect("the API is served");
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: vm\r\nConnection: close\r\n");
        write!(stream, "{head}Content-Length: {length}\r\n\r\n{body}").expect("it reads");
        Answer(BufReader::new(stream))
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        // Does nothing to one that was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer that may take its time.
pub struct Answer(BufReader<UnixStream>);

impl Answer {
    /// Its first line: all that the control socket says, and a status over HTTP.
    pub fn line(mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("it answers");
        line
    }

    /// What comes behind the head of an HTTP answer.
    pub fn body(mut self) -> String {
        let mut answer = String::new();
        self.0.read_to_string(&mut answer).expect("it answers");
        assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
        answer.split_once("\r\n\r\n").expect("it has a head").1.to_owned()
    }
}

/// A TAP that goes when the test does.
pub struct Tap(&'static str);

impl Tap {
    /// A new one.
    pub fn new(name: &'static str) -> Self {
        ip(&format!("tuntap add dev {name} mode tap vnet_hdr"));
        Self(name)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", self.0]).status();
    }
}

/// Runs `ip` with these words.
pub fn ip(words: &str) {
    assert!(Command::new("ip").args(words.split(' ')).status().expect("ip can be run").success(), "{words}");
}
