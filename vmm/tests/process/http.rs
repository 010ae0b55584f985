//! A client of the HTTP API that can also be rude.

use crate::common::{Process, Vm, inherit};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub fn fault(&self) -> String {
        self.json()["fault_message"].as_str().unwrap().to_owned()
    }

    /// What is wrong with a request that does not even get to what it asks for.
    pub fn error(&self) -> String {
        self.json()["error"].as_str().unwrap().to_owned()
    }
}

/// A connection.
pub struct Http(pub BufReader<UnixStream>);

impl Http {
    pub fn connect(socket: &Path) -> Self {
        Self(BufReader::new(UnixStream::connect(socket).unwrap()))
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    /// Reads an answer; `None` when the connection has ended.
    pub fn answer(&mut self) -> Option<Answer> {
        let mut line = String::new();
        if self.0.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        let mut length = 0;
        loop {
            line.clear();
            self.0.read_line(&mut line).unwrap();
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        Some(Answer { status, body: String::from_utf8(body).unwrap() })
    }

    pub fn ask(&mut self, method: &str, path: &str, body: &str) -> Answer {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
        self.send(&[head.as_bytes(), body.as_bytes()].concat());
        self.answer().unwrap()
    }

    /// Asks for what is answered with nothing.
    pub fn ok(&mut self, method: &str, path: &str, body: &Value) {
        let answer = self.ask(method, path, &body.to_string());
        assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{method} {path} {body}");
    }

    pub fn get(&mut self, path: &str) -> Value {
        let answer = self.ask("GET", path, "");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// Asks for what is refused with status 400; why.
    pub fn refused(&mut self, method: &str, path: &str, body: &str) -> String {
        let answer = self.ask(method, path, body);
        assert_eq!(answer.status, 400, "{method} {path} {body}: {answer:?}");
        answer.fault()
    }
}

/// Starts a VMM without configuration, with an API on a socket that is listened on already: connecting needs no wait.
pub fn spawn_api(vm: &Vm, arguments: &[&str]) -> (Process, Http) {
    spawn_api_to(vm, arguments, Stdio::inherit())
}

/// The same with another standard output.
pub fn spawn_api_to(vm: &Vm, arguments: &[&str], output: Stdio) -> (Process, Http) {
    let listener = UnixListener::bind(vm.path("api")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vial-vmm"));
    command
        .args(["--api-fd", &inherit(&listener).to_string()])
        .args(arguments)
        .stdout(output)
        .stderr(Stdio::piped());
    let child = Process(command.spawn().unwrap());
    drop(listener);
    (child, Http::connect(&vm.path("api")))
}
