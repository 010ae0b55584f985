//! The other end of a control socket.

use crate::common::{Process, Vm, inherit};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::RawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// A connection to a control socket.
pub struct Client(BufReader<UnixStream>);

impl Client {
    pub fn connect(socket: &std::path::Path) -> Self {
        Self(BufReader::new(UnixStream::connect(socket).unwrap()))
    }

    fn reply(&mut self) -> Value {
        let mut reply = String::new();
        self.0.read_line(&mut reply).unwrap();
        serde_json::from_str(&reply).unwrap()
    }

    pub fn send(&mut self, line: &[u8]) -> Value {
        self.0.get_mut().write_all(line).unwrap();
        self.reply()
    }

    pub fn ask(&mut self, action: &str) -> Value {
        self.send(format!("{{\"action\":\"{action}\"}}\n").as_bytes())
    }

    /// Asks a VMM that may end meanwhile; none if it has.
    pub fn ask_while_it_lives(&mut self, action: &str) -> Option<Value> {
        let line = format!("{{\"action\":\"{action}\"}}\n");
        self.0.get_mut().write_all(line.as_bytes()).ok()?;
        let mut reply = String::new();
        self.0.read_line(&mut reply).ok().filter(|read| *read > 0)?;
        serde_json::from_str(&reply).ok()
    }

    /// Sends a request and does not wait for its answer.
    pub fn post(&mut self, request: &Value) {
        self.0.get_mut().write_all(format!("{request}\n").as_bytes()).unwrap();
    }

    /// Sends a request with descriptors.
    pub fn ask_with(&mut self, request: &Value, descriptors: &[RawFd]) -> Value {
        let line = format!("{request}\n");
        let sent = self.0.get_ref().send_with_fds(&[line.as_bytes()], descriptors).unwrap();
        assert_eq!(sent, line.len());
        self.reply()
    }
}

/// Starts `vm` with a control socket that is listened on already: connecting needs no wait.
pub fn spawn_listening(vm: &mut Vm) -> (Process, Client) {
    let listener = UnixListener::bind(vm.path("ready")).unwrap();
    vm.config["vial"]["control"] = json!({"fd": inherit(&listener)});
    let child = vm.spawn();
    (child, Client::connect(&vm.path("ready")))
}
