//! Plays the host for one VM: boots it, takes the agent's introduction, and carries out a script of requests.
//!
//! `drive VMM CONFIG SOCKET SCRIPT`: starts `VMM --config-file CONFIG`, whose vsock device is at the Unix socket SOCKET, and reads SCRIPT,
//! one step a line (`#` begins a comment):
//!
//! - `sandbox [MEMORY]`: first of all; the bytes are for all containers together
//! - `create ID IMAGE UPPER SPEC-FILE [stdin]`: UPPER is a disk serial or `tmpfs`; `start ID`; `exec ID EXEC PROCESS-FILE [stdin]`. A
//!   serial as `SERIAL=BYTES` is a disk whose medium was just inserted
//! - `out ID|ID/EXEC`: copies both output streams to the end, acknowledging as it goes; `flood ID|ID/EXEC`: the same, thrown away and
//!   not waited for; `in ID TEXT`: sends a line and the end
//! - `exit ID|ID/EXEC`: waits for the process's end; `oom ID`: waits for one more OOM kill; `signal ID NUMBER`; `stats ID`; `delete ID`;
//!   `bad-token`; `reconnect`; `shutdown`
//! - `usage`: what the agent and the guest use
//! - `churn TURNS IMAGE UPPER SPEC-FILE`: makes, starts and deletes a container so often, on a connection of its own, while the script goes on;
//!   `join`: waits for all of these
//! - `host COMMAND`: runs a shell command on this side
//!
//! A tool for people who work on the agent; the product's own client is in `runtime/vm`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a tool that may end with a backtrace"
)]

use agent_protocol::frame::{self, MAX_FRAME, MAX_HEADER, PREFIX};
use agent_protocol::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::Instant;

const TOKEN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn send<T: Serialize>(to: &mut UnixStream, message: &T) {
    to.write_all(&frame::encode(message, MAX_FRAME).unwrap()).unwrap();
}

fn receive<T: DeserializeOwned>(from: &mut UnixStream) -> T {
    let mut prefix = [0; PREFIX];
    from.read_exact(&mut prefix).expect("the agent closed the connection");
    let mut body = vec![0; frame::body_length(prefix, MAX_FRAME).unwrap()];
    from.read_exact(&mut body).unwrap();
    frame::decode(&body).unwrap()
}

fn connect(socket: &str, port: u32) -> UnixStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
    // Byte by byte: what follows the line belongs to the agent.
    let mut line = Vec::new();
    // Far beyond what any step takes; a script that waits for what never comes should say so.
    stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("the guest does not listen");
        line.push(byte[0]);
    }
    assert!(line.starts_with(b"OK "));
    stream
}

/// Makes, starts and deletes a container again and again.
fn churn(socket: &str, turns: usize, root: &RootFs, spec: &RawValue) {
    let control = Host::open(socket, TOKEN, false).0;
    let mut host =
        Host { socket: socket.into(), control, next: 0, events: VecDeque::new(), ooms: Vec::new() };
    let container = format!("churn-{}", root.image);
    for turn in 0..turns {
        let create = CreateContainer {
            container: container.clone(),
            root: root.clone(),
            spec: spec.to_owned(),
            stdin: false,
        };
        for request in [
            Request::CreateContainer(create),
            Request::Start { container: container.clone() },
            Request::Delete { container: container.clone() },
        ] {
            if let Err(error) = host.request(request) {
                println!("  {container}, turn {turn}: {error:?}");
            }
        }
    }
    println!("  {container}: {turns} turns");
}

struct Host {
    socket: String,
    control: UnixStream,
    next: u64,
    events: VecDeque<Event>,
    ooms: Vec<String>,
}

impl Host {
    fn open(socket: &str, token: &str, events: bool) -> (UnixStream, Result<ServerHello, AgentError>) {
        let mut control = connect(socket, CONTROL_PORT);
        let hello =
            ClientHello { protocol: PROTOCOL, protocol_min: PROTOCOL_MIN, token: token.into(), events };
        send(&mut control, &ClientMessage::Hello(hello));
        let ServerMessage::Hello(answer) = receive(&mut control) else { panic!("no hello") };
        (control, answer)
    }

    fn request(&mut self, request: Request) -> Result<Response, AgentError> {
        self.next += 1;
        send(&mut self.control, &ClientMessage::Request { id: self.next, request });
        loop {
            match receive(&mut self.control) {
                ServerMessage::Response { id, result } if id == self.next => return result,
                ServerMessage::Event { seq, event } => self.event(seq, event),
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    fn event(&mut self, seq: u64, event: Event) {
        println!("  event {seq}: {event:?}");
        if let Event::Oom { container, .. } = &event {
            self.ooms.push(container.clone());
        }
        self.events.push_back(event);
        send(&mut self.control, &ClientMessage::Ack { seq });
    }

    fn exit(&mut self, id: &str) -> ExitStatus {
        let (wanted, wanted_exec) = split(id);
        loop {
            let found = self.events.iter().find_map(|event| match event {
                Event::Exited { container, exec, status } if *container == wanted && *exec == wanted_exec => {
                    Some(*status)
                }
                _ => None,
            });
            if let Some(status) = found {
                return status;
            }
            self.hear();
        }
    }

    fn oom(&mut self, id: &str) {
        loop {
            if let Some(at) = self.ooms.iter().position(|container| container == id) {
                self.ooms.remove(at);
                return;
            }
            self.hear();
        }
    }

    fn hear(&mut self) {
        match receive(&mut self.control) {
            ServerMessage::Event { seq, event } => self.event(seq, event),
            other => panic!("unexpected {other:?}"),
        }
    }

    fn stream(&self, id: &str, stream: StreamKind, token: &str) -> (UnixStream, Result<u64, AgentError>) {
        let mut connection = connect(&self.socket, STREAM_PORT);
        let (container, exec) = split(id);
        send(&mut connection, &StreamHeader { token: token.into(), container, exec, stream, offset: 0 });
        let reply: StreamReply = receive(&mut connection);
        (connection, reply.result)
    }

    fn copy(&self, id: &str, stream: StreamKind) -> Result<Vec<u8>, AgentError> {
        let (connection, begin) = self.stream(id, stream, TOKEN);
        begin?;
        let mut all = Vec::new();
        take(connection, |chunk| all.extend(chunk)).unwrap();
        Ok(all)
    }

    fn flood(&self, id: &str) {
        let (connection, begin) = self.stream(id, StreamKind::Stdout, TOKEN);
        begin.unwrap();
        let id = id.to_owned();
        std::thread::spawn(move || {
            let mut bytes = 0;
            let end = take(connection, |chunk| bytes += chunk.len());
            println!("  flood of {id}: {bytes} bytes, {end:?}");
        });
    }
}

/// Takes all chunks of an output stream.
fn take(mut connection: UnixStream, mut each: impl FnMut(&[u8])) -> std::io::Result<()> {
    let mut taken = 0_u64;
    loop {
        let mut prefix = [0; 4];
        connection.read_exact(&mut prefix)?;
        let mut chunk = vec![0; u32::from_le_bytes(prefix) as usize];
        connection.read_exact(&mut chunk)?;
        each(&chunk);
        taken += chunk.len() as u64;
        connection.write_all(&taken.to_le_bytes())?;
        if chunk.is_empty() {
            return Ok(());
        }
    }
}

/// `SERIAL` or `SERIAL=BYTES`.
fn medium(word: &str) -> (String, Option<u64>) {
    match word.split_once('=') {
        Some((serial, bytes)) => (serial.into(), Some(bytes.parse().unwrap())),
        None => (word.into(), None),
    }
}

fn root(image: &str, upper: &str) -> RootFs {
    let upper = match upper {
        "tmpfs" => Upper::Tmpfs { size: 64 << 20 },
        disk => {
            let (serial, bytes) = medium(disk);
            Upper::Disk { serial, bytes }
        }
    };
    let (image, image_bytes) = medium(image);
    RootFs { image, image_bytes, upper }
}

fn split(id: &str) -> (String, Option<String>) {
    match id.split_once('/') {
        Some((container, exec)) => (container.into(), Some(exec.into())),
        None => (id.into(), None),
    }
}

fn json(path: &str) -> Box<RawValue> {
    RawValue::from_string(std::fs::read_to_string(path).unwrap()).unwrap()
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, vmm, config, socket, script] = &args[..] else { panic!("drive VMM CONFIG SOCKET SCRIPT") };
    let _ = std::fs::remove_file(socket);
    let _ = std::fs::remove_file(format!("{socket}_{READY_PORT}"));
    let ready = UnixListener::bind(format!("{socket}_{READY_PORT}")).unwrap();
    let began = Instant::now();
    let mut vm =
        Command::new(vmm).args(["--no-api", "--config-file", config]).stdin(Stdio::null()).spawn().unwrap();
    let mut agent = ready.accept().unwrap().0;
    let introduction: Ready = receive(&mut agent);
    println!("ready after {:?}: {introduction:?}", began.elapsed());
    agent.write_all(&frame::encode(&Welcome { token: TOKEN.into() }, MAX_HEADER).unwrap()).unwrap();
    let (control, hello) = Host::open(socket, TOKEN, true);
    println!("{:?}", hello.unwrap());
    let mut host =
        Host { socket: socket.clone(), control, next: 0, events: VecDeque::new(), ooms: Vec::new() };

    let mut churning = Vec::new();
    for line in BufReader::new(std::fs::File::open(script).unwrap()).lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let stdin = words.last() == Some(&"stdin");
        let began = Instant::now();
        let said = match words[..] {
            [] | ["#", ..] => continue,
            ["sandbox", ..] => {
                let sandbox = Sandbox {
                    hostname: "pod".into(),
                    time_unix_ns: 1_800_000_000_000_000_000,
                    entropy: TOKEN.into(),
                    network: None,
                    files: None,
                    memory: words.get(1).map(|bytes| bytes.parse().unwrap()),
                };
                format!("{:?}", host.request(Request::ApplySandbox(sandbox)))
            }
            ["create", id, image, upper, spec, ..] => {
                let root = root(image, upper);
                let create = CreateContainer { container: id.into(), root, spec: json(spec), stdin };
                format!("{:?}", host.request(Request::CreateContainer(create)))
            }
            ["start", id] => format!("{:?}", host.request(Request::Start { container: id.into() })),
            ["exec", id, exec, process, ..] => {
                let exec = Exec { container: id.into(), exec: exec.into(), process: json(process), stdin };
                format!("{:?}", host.request(Request::Exec(exec)))
            }
            ["signal", id, number] => {
                let (container, exec) = split(id);
                let signal = number.parse().unwrap();
                format!("{:?}", host.request(Request::Signal { container, exec, signal }))
            }
            ["stats", id] => format!("{:?}", host.request(Request::Stats { container: id.into() })),
            ["delete", id] => format!("{:?}", host.request(Request::Delete { container: id.into() })),
            ["out", id] => [StreamKind::Stdout, StreamKind::Stderr]
                .map(|kind| match host.copy(id, kind) {
                    Ok(bytes) if bytes.len() > 20_000 => format!("{kind:?}: {} bytes", bytes.len()),
                    Ok(bytes) => format!("{kind:?}: {}", String::from_utf8_lossy(&bytes)),
                    Err(error) => format!("{kind:?}: {error:?}"),
                })
                .join("\n"),
            ["in", id, text] => {
                let (mut connection, begin) = host.stream(id, StreamKind::Stdin, TOKEN);
                begin.unwrap();
                connection.write_all(&(text.len() as u32 + 1).to_le_bytes()).unwrap();
                connection.write_all(format!("{text}\n").as_bytes()).unwrap();
                connection.write_all(&[0; 4]).unwrap();
                let mut taken = [0; 8];
                connection.read_exact(&mut taken).unwrap();
                format!("taken {}", u64::from_le_bytes(taken))
            }
            ["flood", id] => {
                host.flood(id);
                "taken from now on".into()
            }
            ["oom", id] => {
                host.oom(id);
                "struck".into()
            }
            ["usage"] => format!("{:?}", host.request(Request::SandboxStats)),
            ["churn", turns, image, upper, spec] => {
                let (socket, root, spec) = (socket.clone(), root(image, upper), json(spec));
                let turns = turns.parse().unwrap();
                churning.push(std::thread::spawn(move || churn(&socket, turns, &root, &spec)));
                "begun".into()
            }
            ["join"] => format!("{:?}", churning.drain(..).try_for_each(std::thread::JoinHandle::join)),
            ["host", ..] => {
                let command = words[1..].join(" ");
                format!("{}", Command::new("sh").args(["-c", &command]).status().unwrap())
            }
            ["exit", id] => format!("{:?}", host.exit(id)),
            ["bad-token"] => {
                let (mut control, hello) = Host::open(socket, "wrong", true);
                let rest = control.read(&mut [0]).unwrap();
                let (_, stream) = host.stream("c1", StreamKind::Stdout, "wrong");
                format!("{hello:?}, then {rest} bytes; stream {stream:?}")
            }
            ["reconnect"] => {
                host.control = Host::open(socket, TOKEN, true).0;
                "connected".into()
            }
            ["shutdown"] => format!("{:?}", host.request(Request::Shutdown)),
            _ => panic!("unknown step {line:?}"),
        };
        println!("{line}  [{:?}]\n{said}", began.elapsed());
    }
    println!("the VM ended with {}", vm.wait().unwrap());
}
