//! Debian's docker-registry, a real registry, for one test.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A registry on a port of its own, with an empty store; gone with the test.
pub struct Registry {
    process: Child,
    dir: TempDir,
    /// `localhost:PORT`.
    pub name: String,
}

/// User name and password that a guarded registry takes.
pub const LOGIN: (&str, &str) = ("me", "secret");
/// bcrypt of the above, as `htpasswd -B` prints it.
const HTPASSWD: &str = "me:$2y$05$uwEuMkr4ABkWTRUPuy2Hx.F86YquBVLbEVC6TXQuWMMEL8Ty8KU7W\n";

impl Registry {
    /// Over plain HTTP, open to all.
    pub fn open() -> Self {
        Self::start(tempfile::tempdir().expect("a temporary folder"), "")
    }

    /// Over TLS with a certificate of its own CA, with a login.
    pub fn guarded() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("htpasswd"), HTPASSWD).expect("a file in it");
        let script = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-CA -keyout ca.key -out ca.crt && \
             openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout own.key -out own.csr && \
             printf subjectAltName=DNS:localhost >names && \
             openssl x509 -req -in own.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out own.crt";
        let made = Command::new("sh").args(["-c", script]).current_dir(dir.path()).output();
        let made = made.expect("a shell can be run");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let at = |name: &str| dir.path().join(name).display().to_string();
        let more = format!(
            ", tls: {{certificate: {}, key: {}}}}}\nauth: {{htpasswd: {{realm: test, path: {}}}",
            at("own.crt"),
            at("own.key"),
            at("htpasswd")
        );
        Self::start(dir, &more)
    }

    fn start(dir: TempDir, more: &str) -> Self {
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"127.0.0.1:0\"{more}}}\n",
            dir.path().join("store").display()
        );
        let path = dir.path().join("config.yml");
        std::fs::write(&path, config).expect("a file in a temporary folder");
        let mut process = Command::new(crate::fixtures::folder().join("docker-registry"))
            .arg("serve")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tests/fixtures/make has unpacked docker-registry");
        let mut lines = BufReader::new(process.stderr.take().expect("it is piped"));
        let mut line = String::new();
        let port = loop {
            line.clear();
            assert!(lines.read_line(&mut line).expect("its log") > 0, "the registry ended at once");
            if let Some((_, address)) = line.split_once("listening on 127.0.0.1:") {
                break address.split(|c: char| !c.is_ascii_digit()).next().expect("a port").to_owned();
            }
        };
        // It blocks when nobody reads what it logs.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Self { process, dir, name: format!("localhost:{port}") }
    }

    /// The certificate of its CA.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    /// A folder for the test's own files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
