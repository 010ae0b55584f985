//! The executor on the real kernel, in a network namespace of the test's own: as root only, else there is nothing to see.

#![allow(clippy::unwrap_used, reason = "this is a test: what fails here has failed")]
use std::path::Path;
use std::process::Command;
use vial_network::{Config, Network, Port, Protocol, ports};

const INSIDE: &str = "VIAL_TEST_INSIDE";

/// Runs this very test again in a namespace of its own. True if we are there.
fn inside(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    // A kernel without nf_tables has an nft all the same.
    let can = "test -c /dev/net/tun && nft list tables && ip link";
    let can = Command::new("unshare").args(["-n", "sh", "-c", can]).output();
    if !can.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: this needs root, /dev/net/tun, nft and ip");
        return false;
    }
    let this = std::env::current_exe().unwrap();
    let status = Command::new("unshare")
        .arg("-n")
        .arg(this)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status();
    assert!(status.unwrap().success());
    false
}

fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn slots_and_ports_come_and_go() {
    if !inside("slots_and_ports_come_and_go") {
        return;
    }
    sh("ip link set lo up; sysctl -qw net.ipv4.ip_forward=0");
    let run = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let config = Config::new(run.path().into(), None);
        let table = config.table.clone();
        let network = Network::open(config.clone(), vec![]).await;
        assert_eq!(sh("nft list tables"), "", "nothing before the first pod");
        let slot = network.slot().await.unwrap();
        let mut lease = slot.lease;
        let route = sh(&format!("ip -o route show {}", lease.v4));
        assert!(route.contains(&lease.interface) && route.contains("10.77.0.1"), "{route}");
        assert_eq!(sh("sysctl -n net.ipv4.ip_forward"), "1\n");

        let wanted = Port { ip: None, host: 0, pod: 80, protocol: Protocol::Tcp };
        let (held, _sockets) = ports::hold(&[wanted]).unwrap();
        lease.ports = held;
        network.publish(&lease).await.unwrap();
        let element = format!("tcp . {} : {} . 80", lease.ports[0].host, lease.v4);
        let rules = || sh(&format!("nft list table inet {table}"));
        assert!(rules().contains(&element), "{}", rules());

        // A daemon that comes after a killed one: everything of the pod is as it was.
        drop(network);
        let network = Network::open(config, vec![lease.clone()]).await;
        assert!(rules().contains(&element));
        let other = network.slot().await.unwrap();
        assert_ne!(other.lease.v4, lease.v4);
        network.release(&lease).await;
        assert!(!rules().contains(&element));

        // The wire goes with its descriptor, the table with the last pod.
        drop((slot.tap, other.tap));
        network.close(false).await;
        assert!(!sh("ip -o link").contains("vial"));
        assert_eq!(sh("nft list tables"), "");
        assert_eq!(sh("sysctl -n net.ipv4.ip_forward"), "0\n");
        assert_eq!(std::fs::read_dir(run.path()).unwrap().count(), 0);
    });
}

#[test]
fn a_firewall_that_drops_is_told_and_left_as_it_was() {
    if !inside("a_firewall_that_drops_is_told_and_left_as_it_was") {
        return;
    }
    if !Path::new("/usr/sbin/iptables").exists() {
        eprintln!("skipped: this needs iptables");
        return;
    }
    sh(
        "ip link set lo up; iptables -P FORWARD DROP; iptables -N DOCKER-USER; iptables -A FORWARD -j DOCKER-USER; iptables -P INPUT DROP",
    );
    let before = sh("iptables -S");
    let run = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let network = Network::open(Config::new(run.path().into(), Some("10.9.0.0/24".into())), vec![]).await;
        let slot = network.slot().await.unwrap();
        assert_eq!(slot.lease.v4.to_string(), "10.9.0.2");
        let rules = sh("iptables -S");
        assert!(rules.contains("-A DOCKER-USER -i vial+ "), "{rules}");
        assert!(rules.contains("-A INPUT -d 10.9.0.1/32 -i vial+ -p udp "), "{rules}");
        network.close(false).await;
        assert_eq!(sh("iptables -S"), before);
    });
}
