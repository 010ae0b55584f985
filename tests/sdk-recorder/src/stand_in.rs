//! What an SDK takes for `firecracker` or `jailer`: tells the recorder its arguments, puts a proxy where the SDK will look for the API,
//! and becomes the real program, so that the process that the SDK waits for and kills is the real one.

use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Appended to the path at which the real program listens.
const BEHIND: &str = ".vmm";
const DEFAULT_SOCKET: &str = "/run/firecracker.socket";

/// Never returns but for a failure.
pub fn run(name: &str) -> ! {
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let program = std::env::current_exe().expect("a program knows itself");
    // The stage's folder: see `stage`.
    let folder = program.parent().and_then(Path::parent).expect("it is in <folder>/bin").to_owned();
    let real = folder.join("real");
    let mut command = vec![json!(name)];
    command.extend(arguments.iter().map(|argument| json!(argument.to_str().expect("arguments are UTF-8"))));
    let value = |arguments: &[OsString], option: &str| {
        arguments.iter().position(|argument| argument == option).map(|at| at + 1)
    };
    let root = (name == "jailer").then(|| {
        let of = |option: &str| value(&arguments, option).map(|at| PathBuf::from(&arguments[at]));
        let base = of("--chroot-base-dir").unwrap_or("/srv/jailer".into());
        let id = of("--id").expect("a jail has an id");
        base.join("firecracker").join(id).join("root")
    });
    if let Some(at) = value(&arguments, "--exec-file") {
        arguments[at] = real.join("firecracker").into();
    }
    let socket = match value(&arguments, "--api-sock") {
        Some(at) => {
            let socket = PathBuf::from(&arguments[at]);
            arguments[at].push(BEHIND);
            socket
        }
        None => {
            if name == "jailer" && !arguments.iter().any(|argument| argument == "--") {
                arguments.push("--".into());
            }
            arguments.extend(["--api-sock".into(), format!("{DEFAULT_SOCKET}{BEHIND}").into()]);
            DEFAULT_SOCKET.into()
        }
    };
    let socket = match root {
        Some(root) => root.join(socket.strip_prefix("/").unwrap_or(&socket)),
        None => socket,
    };
    Command::new(&program)
        .arg0("proxy")
        .arg(folder.join("recorder"))
        .arg(&socket)
        .arg(Value::from(command).to_string())
        // The SDK may wait for the end of its child's output.
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("the proxy starts");
    let error = Command::new(real.join(name)).args(arguments).exec();
    panic!("{}: {error}", real.join(name).display());
}

/// What went one way and what came back.
#[derive(Default)]
struct Exchange {
    number: u64,
    request: Vec<u8>,
    answer: Vec<u8>,
}

struct Log {
    recorder: Mutex<UnixStream>,
    next: AtomicU64,
}

impl Log {
    fn say(&self, line: &Value) {
        let mut recorder = self.recorder.lock().expect("nobody panics with it");
        writeln!(recorder, "{line}").expect("the recorder listens");
    }

    fn flush(&self, connection: u64, exchange: &mut Exchange) {
        let Exchange { number, request, answer } = std::mem::take(exchange);
        if request.is_empty() && answer.is_empty() {
            return;
        }
        let text = |bytes| String::from_utf8(bytes).expect("the API is text");
        self.say(&json!({"number": number, "connection": connection, "request": text(request), "answer": text(answer)}));
    }
}

/// Tells the recorder at the first argument, listens at the second as soon as somebody does behind it, and copies until the recorder has enough.
pub fn proxy() {
    let mut arguments = std::env::args_os().skip(1);
    let recorder = arguments.next().expect("the recorder's socket");
    let socket = PathBuf::from(arguments.next().expect("the socket's path"));
    let command = arguments.next().expect("the command line");
    let recorder = UnixStream::connect(recorder).expect("the recorder listens");
    let mut enough = recorder.try_clone().expect("descriptors are left");
    let log = Arc::new(Log { recorder: Mutex::new(recorder), next: AtomicU64::new(0) });
    let command: Value = serde_json::from_str(command.to_str().expect("JSON")).expect("JSON");
    log.say(&json!({"command": command}));
    let mut behind = socket.clone().into_os_string();
    behind.push(BEHIND);
    while UnixStream::connect(&behind).is_err() {
        std::thread::sleep(Duration::from_millis(2));
    }
    let listener = UnixListener::bind(&socket).expect("the SDK's path is free");
    let accepting = Arc::clone(&log);
    std::thread::spawn(move || {
        for connection in 0.. {
            let Ok((client, _)) = listener.accept() else { return };
            copy(client, Path::new(&behind), connection, &accepting);
        }
    });
    // The recorder ends its side when the SDK is through; the VMM has ended then, and with it all connections.
    let _ = enough.read(&mut [0]);
    std::thread::sleep(Duration::from_millis(200));
}

fn copy(mut client: UnixStream, behind: &Path, connection: u64, log: &Arc<Log>) {
    let Ok(mut vmm) = UnixStream::connect(behind) else { return };
    let exchange = Arc::new(Mutex::new(Exchange::default()));
    let (mut from_client, mut to_vmm) =
        (client.try_clone().expect("descriptors"), vmm.try_clone().expect("descriptors"));
    let (requests, requesting) = (Arc::clone(&exchange), Arc::clone(log));
    std::thread::spawn(move || {
        let mut bytes = [0; 1 << 16];
        while let Ok(read @ 1..) = from_client.read(&mut bytes) {
            {
                let mut exchange = requests.lock().expect("nobody panics with it");
                if !exchange.answer.is_empty() {
                    requesting.flush(connection, &mut exchange);
                }
                if exchange.request.is_empty() {
                    exchange.number = requesting.next.fetch_add(1, Ordering::Relaxed);
                }
                exchange.request.extend(&bytes[..read]);
            }
            if to_vmm.write_all(&bytes[..read]).is_err() {
                break;
            }
        }
        let _ = to_vmm.shutdown(Shutdown::Write);
    });
    let log = Arc::clone(log);
    std::thread::spawn(move || {
        let mut bytes = [0; 1 << 16];
        while let Ok(read @ 1..) = vmm.read(&mut bytes) {
            exchange.lock().expect("nobody panics with it").answer.extend(&bytes[..read]);
            if client.write_all(&bytes[..read]).is_err() {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Both);
        log.flush(connection, &mut exchange.lock().expect("nobody panics with it"));
    });
}
