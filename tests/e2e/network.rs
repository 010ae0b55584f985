//! Pods' networks, from inside, from the host, and from outside.

use std::process::Command;
use vial_tests::host::{Vial, path, signal};
use vial_tests::outside::{HOST, OUTSIDE, Outside, dns, sh};
use vial_tests::talk::until;

/// What `vial inspect` says of a container's network.
fn network(vial: &Vial, name: &str) -> serde_json::Value {
    let text = vial.run(["inspect", name]).ok();
    let value: serde_json::Value = serde_json::from_str(&text).expect("inspect prints JSON");
    let value = if value.is_array() { value[0].clone() } else { value };
    value["network"].clone()
}

fn address(vial: &Vial, name: &str) -> String {
    network(vial, name)["ipv4"].as_str().expect("it has an address").to_owned()
}

/// A detached pod that serves its own name over HTTP on port 80.
fn server(vial: &Vial, name: &str, more: &[&str]) {
    let script = "mkdir /www; hostname > /www/name; exec httpd -f -p 80 -h /www";
    let args = ["run", "-d", "--name", name, "--hostname", name].into_iter().chain(more.iter().copied());
    vial.run(args.chain(["busybox", "sh", "-c", script])).ok();
    // Its command runs; that it listens shows from inside.
    let listens = "until netstat -ltn | grep -q :80; do usleep 50000; done";
    vial.run(["exec", name, "sh", "-c", listens]).ok();
}

/// The one pod's network helper.
fn helper() -> i32 {
    let mut all = std::fs::read_dir("/proc").expect("proc is there").flatten();
    let folder = all.find(|folder| {
        std::fs::read(folder.path().join("cmdline")).is_ok_and(|words| words.starts_with(b"vial-net-helper"))
    });
    let name = folder.expect("it runs").file_name();
    name.to_str().and_then(|name| name.parse().ok()).expect("a process")
}

fn get(url: &str) -> String {
    let output =
        Command::new("curl").args(["-sS", "-g", "--max-time", "20", url]).output().expect("curl runs");
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_pod_reaches_outside_by_address_and_name() {
    let outside = Outside::new();
    let vial = Vial::with_busybox();
    let script = format!(
        "wget -qO- http://{OUTSIDE}/page; wget -qO- http://www.example.org/page; ping -c1 -W10 {OUTSIDE} | grep -c 'bytes from'
         nslookup www.example.org | tail -n 3; cat /etc/resolv.conf /etc/hostname; grep vessel /etc/hosts; ip -4 -o addr show eth0; ip route"
    );
    let out = vial.run(["run", "--rm", "--hostname", "vessel", "busybox", "sh", "-c", &script]).ok();
    assert_eq!(out.matches("from outside").count(), 2, "{out}");
    assert!(out.contains(&format!("nameserver {OUTSIDE}")) && out.contains("\nvessel\n"), "{out}");
    assert!(out.contains("/32") && out.contains("default via"), "{out}");
    drop(outside);
    vial.leaves_nothing();
}

#[test]
fn a_host_whose_resolver_is_local_is_asked_through_the_gateway() {
    let mut outside = Outside::new();
    outside.serve_on_host(&dns("127.0.0.1"), 53);
    outside.resolvers("nameserver 127.0.0.1\n");
    let vial = Vial::with_busybox();
    let script =
        "nslookup www.example.org; wget -qO- http://www.example.org/page; cat /etc/resolv.conf; sleep 1000";
    vial.run(["run", "-d", "--name", "asker", "busybox", "sh", "-c", script]).ok();
    let again = "until wget -qO- http://www.example.org/page; do usleep 100000; done";
    assert_eq!(vial.run(["exec", "asker", "sh", "-c", again]).ok(), "from outside\n");
    // What answers is no part of the daemon.
    signal(vial.daemon_pid().expect("the daemon runs"), libc::SIGKILL);
    let gateway = network(&vial, "asker")["gateway"].as_str().expect("a gateway").to_owned();
    assert!(vial.run(["exec", "asker", "cat", "/etc/resolv.conf"]).ok().contains(&gateway));
    assert_eq!(vial.run(["exec", "asker", "sh", "-c", again]).ok(), "from outside\n");
    // Rubbish is not answered, and does no harm.
    let rubbish = format!(
        "traceroute -n -m1 -q3 -w1 -p 52 {gateway}; head -c 9000 /dev/urandom | nc -w1 {gateway} 53; true"
    );
    vial.run(["exec", "asker", "sh", "-c", &rubbish]).ok();
    assert_eq!(vial.run(["exec", "asker", "sh", "-c", again]).ok(), "from outside\n");
    drop(outside);
    vial.leaves_nothing();
}

#[test]
fn the_host_and_other_pods_reach_a_pod_by_its_address() {
    let vial = Vial::with_busybox();
    server(&vial, "web", &[]);
    let ip = address(&vial, "web");
    assert_eq!(get(&format!("http://{ip}/name")), "web\n");
    let v6 = network(&vial, "web")["ipv6"].as_str().map(str::to_owned);
    let url = format!("http://{ip}/name");
    assert_eq!(vial.run(["run", "--rm", "busybox", "wget", "-qO-", &url]).ok(), "web\n");
    if let Some(v6) = v6 {
        let url = format!("http://[{v6}]/name");
        assert_eq!(get(&url), "web\n");
        assert_eq!(vial.run(["run", "--rm", "busybox", "wget", "-qO-", &url]).ok(), "web\n");
    }
    vial.leaves_nothing();
}

#[test]
fn published_ports_are_reached_from_everywhere() {
    let outside = Outside::new();
    let vial = Vial::with_busybox();
    server(&vial, "web", &["-p", "8080:80", "-p", "127.0.0.1:8081:80"]);
    assert!(vial.run(["ps"]).ok().contains("8080->80/tcp"));
    assert_eq!(vial.run(["port", "web", "80"]).ok(), "0.0.0.0:8080\n[::]:8080\n127.0.0.1:8081\n");
    vial.run(["port", "web", "81"]).fails(1, "not published");
    let everywhere = || {
        assert_eq!(outside.prints(&format!("curl -sS --max-time 20 http://{HOST}:8080/name")), "web\n");
        for host in
            ["127.0.0.1:8080", "[::1]:8080", "127.0.0.1:8081", "localhost:8080", &format!("{HOST}:8080")]
        {
            assert_eq!(get(&format!("http://{host}/name")), "web\n", "{host}");
        }
    };
    everywhere();
    // From another pod and from itself.
    let url = format!("http://{HOST}:8080/name");
    assert_eq!(vial.run(["run", "--rm", "busybox", "wget", "-qO-", &url]).ok(), "web\n");
    assert_eq!(vial.run(["exec", "web", "wget", "-qO-", &url]).ok(), "web\n");
    // What is published on the loopback only stays there, also for who claims to be on it; what is not published is not reached at all.
    assert!(!outside.run(&format!("curl -sS --max-time 3 http://{HOST}:8081/name")).status.success());
    let ip = address(&vial, "web");
    outside.prints(&format!("ip route add {ip} via {HOST}"));
    assert!(!outside.run(&format!("curl -sS --max-time 3 http://{ip}/name")).status.success());
    // Taken is taken, by a pod or by a program.
    vial.run(["run", "--rm", "-p", "8080:80", "busybox", "true"]).fails(125, "container web");
    let taken = std::net::TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    vial.run(["run", "--rm", "-p", &format!("{port}:80"), "busybox", "true"]).fails(125, "in use");
    let twice = ["run", "--rm", "-p", "9090:80", "-p", "9090:81", "busybox", "true"];
    vial.run(twice).fails(125, "given twice");
    vial.run(["run", "--rm", "-p", "192.0.2.9:8098:80", "busybox", "true"])
        .fails(125, "no address of this host");
    // A helper that is killed is replaced: [::1] needs it.
    signal(helper(), libc::SIGKILL);
    until("the helper is back", || (get("http://[::1]:8080/name") == "web\n").then_some(()));
    everywhere();
    // The daemon has no part in it.
    signal(vial.daemon_pid().expect("the daemon runs"), libc::SIGKILL);
    everywhere();
    vial.run(["ps"]).ok();
    everywhere();
    vial.run(["rm", "-f", "web"]).ok();
    assert!(!outside.run(&format!("curl -sS --max-time 3 http://{HOST}:8080/name")).status.success());
    server(&vial, "next", &["-p", "8080:80"]);
    assert_eq!(outside.prints(&format!("curl -sS --max-time 20 http://{HOST}:8080/name")), "next\n");
    drop(outside);
    vial.leaves_nothing();
}

/// Echoes datagrams to port 7, and sends one to an echo.
const ECHO: &str = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 7)); print('ready', flush=True)
while True: s.sendto(*s.recvfrom(2000))";
const PING: &str = "import socket, sys
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(20); s.sendto(b'ping', (sys.argv[1], 7007)); print(s.recv(99).decode(), end='')";

#[test]
fn udp_ports_are_published_too() {
    let outside = Outside::new();
    let vial = Vial::new();
    vial.run(["load", "-q", "-i", path(&vial_tests::fixtures::debian())]).ok();
    vial.run(["run", "-d", "--name", "echo", "-p", "7007:7/udp", "debian:vial", "python3", "-c", ECHO]).ok();
    let mut logs = vial.spawn(["logs", "-f", "echo"], std::process::Stdio::null());
    let lines = std::io::BufRead::lines(std::io::BufReader::new(logs.stdout.take().expect("a pipe")));
    assert_eq!(lines.into_iter().next().and_then(Result::ok).as_deref(), Some("ready"));
    assert_eq!(outside.prints(&format!("python3 -c \"{PING}\" {HOST}")), "ping");
    for host in ["127.0.0.1", "::1", HOST] {
        assert_eq!(sh(&format!("python3 -c \"{PING}\" {host}")), "ping", "{host}");
    }
    vial.run(["rm", "-f", "echo"]).ok();
    logs.wait().expect("it ends with the container");
    drop(outside);
    vial.leaves_nothing();
}

/// Sends UDP datagrams with these sources, then one with its own.
const FORGER: &str = r#"
import socket, struct, sys
target, port = sys.argv[1], 9999
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for source in sys.argv[2:]:
    data = b"forged"
    udp = struct.pack("!HHHH", 5555, port, 8 + len(data), 0) + data
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(target))
    raw.sendto(ip + udp, (target, 0))
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"honest", (target, port))
"#;

#[test]
fn a_pod_can_not_pretend_to_be_another() {
    let mut outside = Outside::new();
    let vial = Vial::with_busybox();
    vial.run(["load", "-q", "-i", path(&vial_tests::fixtures::debian())]).ok();
    server(&vial, "web", &[]);
    let (other, gateway) = (address(&vial, "web"), network(&vial, "web")["gateway"].clone());
    let gateway = gateway.as_str().expect("a gateway").to_owned();
    let heard = outside.hear(9999);
    let args = [
        "run",
        "--rm",
        "debian:vial",
        "python3",
        "-c",
        FORGER,
        OUTSIDE,
        "10.9.9.9",
        &other,
        &gateway,
        HOST,
        "127.0.0.1",
    ];
    vial.run(args).ok();
    assert_eq!(heard.recv().expect("something is heard"), "honest");
    // The host's own loopback is not theirs.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let url = format!("http://{gateway}:{port}/");
    assert_ne!(vial.run(["exec", "web", "timeout", "5", "wget", "-qO-", &url]).code, 0);
    drop(outside);
    vial.leaves_nothing();
}

#[test]
fn without_a_network_there_is_the_loopback_only() {
    let vial = Vial::with_busybox();
    let script = "ls /sys/class/net | grep -v dummy; ping -c1 127.0.0.1 | grep -c 'bytes from'; grep localhost /etc/hosts | head -n 1";
    let out = vial.run(["run", "--rm", "--network", "none", "busybox", "sh", "-c", script]).ok();
    assert_eq!(out, "lo\n1\n127.0.0.1\tlocalhost\n");
    vial.run(["run", "--rm", "--network", "none", "-p", "80:80", "busybox", "true"]).fails(125, "-p");
    vial.run(["run", "--rm", "--network", "host", "busybox", "true"]).fails(125, "publish");
    vial.leaves_nothing();
}

#[test]
fn a_host_that_has_no_network_to_give_runs_pods_all_the_same() {
    let vial = Vial::with_busybox();
    vial.run(["daemon", "stop"]).ok();
    // The daemon that this one starts does not see the device.
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", "mount -t tmpfs none /dev/net; exec \"$0\" \"$@\""]);
    command.arg(Vial::program()).args(["run", "--rm", "busybox", "ls", "/sys/class/net"]);
    command.env("VIAL_DATA_DIR", vial.data()).env("VIAL_RUN_DIR", vial.run_dir());
    let ran = vial.output(command);
    assert!(ran.stderr.contains("warning: this container has no network but its loopback"), "{}", ran.stderr);
    assert!(ran.stderr.contains("/dev/net/tun"), "{}", ran.stderr);
    assert!(!ran.ok().contains("eth0"));
    let ran = vial.run(["run", "-d", "--rm", "--name", "one", "busybox", "sleep", "1000"]);
    assert!(ran.stderr.contains("no network but its loopback"), "{}", ran.stderr);
    ran.ok();
    // Who asks for one is told at once.
    for asked in [["--network", "routed"], ["-p", "8080:80"]] {
        let args = ["run", "--rm"].into_iter().chain(asked).chain(["busybox", "true"]);
        vial.run(args).fails(125, "/dev/net/tun");
    }
    // Nothing was changed for what did not come.
    assert!(!sh("nft list tables").contains("vial") && !vial.run_dir().join("forwarding").exists());
    vial.leaves_nothing();
}

#[test]
fn names_can_be_added_and_servers_chosen() {
    let vial = Vial::with_busybox();
    let args =
        ["run", "--rm", "--dns", "192.0.2.53", "--add-host", "db:192.0.2.9", "--add-host", "me:host-gateway"];
    let out = vial.run(args.into_iter().chain(["busybox", "cat", "/etc/resolv.conf", "/etc/hosts"])).ok();
    assert!(out.contains("nameserver 192.0.2.53\n") && out.contains("192.0.2.9\tdb\n"), "{out}");
    assert!(out.contains(".0.1\tme\n"), "{out}");
    vial.run(["run", "--rm", "--add-host", "db", "busybox", "true"]).fails(125, "NAME:ADDRESS");
    vial.leaves_nothing();
}

#[test]
fn pods_get_through_firewalls_that_drop() {
    let outside = Outside::new();
    // As Docker leaves a host behind, and as ufw does with its way in.
    sh("iptables -P FORWARD DROP; iptables -N DOCKER-USER; iptables -A DOCKER-USER -j RETURN; iptables -A FORWARD -j DOCKER-USER
        iptables -P INPUT DROP; iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT; iptables -A INPUT -i lo -j ACCEPT");
    let before = sh("iptables -S");
    let vial = Vial::with_busybox();
    server(&vial, "web", &["-p", "8080:80"]);
    assert_eq!(outside.prints(&format!("curl -sS --max-time 20 http://{HOST}:8080/name")), "web\n");
    let url = format!("http://{OUTSIDE}/page");
    assert_eq!(vial.run(["exec", "web", "timeout", "20", "wget", "-qO-", &url]).ok(), "from outside\n");
    assert_eq!(get("http://127.0.0.1:8080/name"), "web\n");
    vial.run(["rm", "-f", "web"]).ok();
    vial.run(["daemon", "stop"]).ok();
    assert_eq!(sh("iptables -S"), before);
    sh("for t in iptables ip6tables; do $t -P FORWARD ACCEPT; $t -P INPUT ACCEPT; $t -F; $t -X; done
        nft delete table ip filter; nft delete table ip6 filter || true");
    drop(outside);
    vial.leaves_nothing();
}

#[test]
fn many_pods_at_once_have_an_address_each() {
    let vial = Vial::with_busybox();
    let count = std::env::var("VIAL_TEST_PODS").ok().and_then(|text| text.parse().ok()).unwrap_or(6);
    // All their guests boot on one processor, perhaps an emulated one: each takes as long as all of them.
    vial.run(["daemon", "stop"]).ok();
    let mut patient = vial.command(["ps"]);
    patient.env("VIAL_START_TIMEOUT_S", "600");
    vial.output(patient).ok();
    let pods: Vec<_> = (0..count)
        .map(|number| {
            let (name, port) = (format!("p{number}"), format!("{}:80", 9000 + number));
            let args =
                ["run", "-d", "--name", &name, "--memory", "32m", "-p", &port, "busybox", "sleep", "1000"];
            vial.spawn(args, std::process::Stdio::null())
        })
        .collect();
    for pod in pods {
        let output = pod.wait_with_output().expect("a child can be waited for");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let addresses: std::collections::BTreeSet<String> =
        (0..count).map(|number| address(&vial, &format!("p{number}"))).collect();
    assert_eq!(addresses.len(), count);
    // Each reaches each other's wire through the host.
    let (first, last) = (addresses.first().expect("some"), addresses.last().expect("some"));
    for ip in [first, last] {
        vial.run(["exec", "p0", "ping", "-c1", "-W20", ip]).ok();
    }
    vial.leaves_nothing();
}

#[test]
fn addresses_that_no_pod_has_lead_nowhere() {
    let outside = Outside::new();
    let vial = Vial::with_busybox();
    for name in ["stays", "goes"] {
        vial.run(["run", "-d", "--name", name, "busybox", "sleep", "100000"]).ok();
    }
    let (stays, goes) = (address(&vial, "stays"), network(&vial, "goes"));
    let way = |ip: &str| {
        let got = Command::new("ip").args(["route", "get", ip]).output().expect("ip runs");
        format!("{}{}", String::from_utf8_lossy(&got.stdout), String::from_utf8_lossy(&got.stderr))
    };
    let gone = |ip: &str| {
        let told = way(ip);
        assert!(told.contains("unreachable") || told.contains("No route to host"), "{ip}: {told}");
    };
    let (v4, v6) = (goes["ipv4"].as_str().expect("an address"), goes["ipv6"].as_str());
    assert!(way(v4).contains("dev vial"), "{}", way(v4));
    vial.run(["rm", "-f", "goes"]).ok();
    let net = v4.rsplit_once('.').expect("an address").0.rsplit_once('.').expect("an address").0;
    for ip in
        [v4, &format!("{net}.0.0"), &format!("{net}.255.255"), &format!("{net}.200.1")].into_iter().chain(v6)
    {
        gone(ip);
    }
    assert!(way(&stays).contains("dev vial"), "{}", way(&stays));
    // Neither a killed daemon nor its successor changes that.
    signal(vial.daemon_pid().expect("the daemon runs"), libc::SIGKILL);
    gone(v4);
    vial.run(["exec", "stays", "true"]).ok();
    gone(v4);
    drop(outside);
    vial.leaves_nothing();
}
