//! "The outside" of an emulated host without a network: a network namespace behind a pair of links, with a web server and a
//! resolver of its own.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

/// The host's address on the link.
pub const HOST: &str = "192.0.2.1";
/// The outside's address.
pub const OUTSIDE: &str = "192.0.2.2";
/// The namespace, and the host's end of the link.
const NAME: &str = "outside";
const LINK: &str = "uplink0";

/// The outside, there as long as this value.
pub struct Outside {
    servers: Vec<Child>,
    resolv_conf: Option<Vec<u8>>,
    folder: tempfile::TempDir,
}

/// Runs a command to its end.
///
/// # Panics
/// When it fails, or takes two minutes.
#[track_caller]
pub fn sh(script: &str) -> String {
    let output = Command::new("timeout").args(["120", "sh", "-ec", script]).output().expect("sh can be run");
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Outside {
    /// Makes it. The host's default route leads there; its resolver is asked for names.
    ///
    /// # Panics
    /// When something is missing.
    pub fn new() -> Self {
        sh(&format!(
            "ip netns add {NAME}; ip link add {LINK} type veth peer name eth0 netns {NAME}
             ip addr add {HOST}/24 dev {LINK}; ip link set {LINK} up; ip route add default via {OUTSIDE}
             ip -n {NAME} addr add {OUTSIDE}/24 dev eth0; ip -n {NAME} link set eth0 up; ip -n {NAME} link set lo up"
        ));
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("page"), "from outside\n").expect("a page");
        let resolv_conf = std::fs::read("/etc/resolv.conf").ok();
        let mut outside = Self { servers: Vec::new(), resolv_conf, folder };
        let web = format!("busybox httpd -f -p {OUTSIDE}:80 -h {}", outside.folder.path().display());
        outside.serve(&web, Some(80));
        outside.serve(&dns(OUTSIDE), Some(53));
        outside.resolvers(&format!("nameserver {OUTSIDE}\n"));
        outside
    }

    /// Starts a server outside; returns when it listens on its TCP port.
    pub fn serve(&mut self, command: &str, port: Option<u16>) {
        self.servers.push(spawn(&format!("exec ip netns exec {NAME} {command}")));
        if let Some(port) = port {
            wait_for(port, true);
        }
    }

    /// Starts a server on the host itself.
    pub fn serve_on_host(&mut self, command: &str, port: u16) {
        self.servers.push(spawn(&format!("exec {command}")));
        wait_for(port, false);
    }

    /// The first UDP datagram that reaches this port outside, as text.
    pub fn hear(&mut self, port: u16) -> std::sync::mpsc::Receiver<String> {
        let script = format!(
            "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', {port})); s.settimeout(60)
print('ready', flush=True); print(s.recv(2000).decode(), flush=True)"
        );
        let mut command = Command::new("ip");
        command.args(["netns", "exec", NAME, "python3", "-c", &script]).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3 can be run");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        assert_eq!(lines.next().and_then(Result::ok).as_deref(), Some("ready"));
        self.servers.push(child);
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            if let Some(Ok(line)) = lines.next() {
                // The test may be over.
                let _ = sender.send(line);
            }
        });
        receiver
    }

    /// Runs a command outside.
    pub fn run(&self, command: &str) -> Output {
        let limited = ["120", "ip", "netns", "exec", NAME, "sh", "-c", command];
        let output = Command::new("timeout").args(limited).output();
        output.expect("ip can be run")
    }

    /// What a command outside prints.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn prints(&self, command: &str) -> String {
        let output = self.run(command);
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Makes this the host's `/etc/resolv.conf`.
    pub fn resolvers(&self, text: &str) {
        // It may be a link into nowhere.
        let _ = std::fs::remove_file("/etc/resolv.conf");
        std::fs::write("/etc/resolv.conf", text).expect("/etc/resolv.conf can be written");
    }
}

/// A resolver that knows one name, on this address.
pub fn dns(address: &str) -> String {
    format!(
        "dnsmasq --no-daemon --conf-file=/dev/null --no-resolv --no-hosts --bind-interfaces --listen-address={address} \
         --address=/www.example.org/{OUTSIDE} --user=root"
    )
}

fn spawn(script: &str) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("sh can be run")
}

/// Waits until somebody listens on a TCP port: the kernel has no event for that.
fn wait_for(port: u16, outside: bool) {
    let list = "ss -Hltn";
    let list = if outside { format!("ip netns exec {NAME} {list}") } else { list.into() };
    for _ in 0..600 {
        if sh(&list).contains(&format!(":{port} ")) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("nobody listens on port {port}");
}

impl Default for Outside {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
        let _ = Command::new("ip").args(["link", "del", LINK]).output();
        let _ = Command::new("ip").args(["netns", "del", NAME]).output();
        let _ = std::fs::remove_file("/etc/resolv.conf");
        if let Some(text) = &self.resolv_conf {
            let _ = std::fs::write("/etc/resolv.conf", text);
        }
    }
}
