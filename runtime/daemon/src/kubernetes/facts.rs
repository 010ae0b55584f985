//! What is seen of the machine.

use super::place;
use crate::paths::{Paths, named};
use crate::state::Shared;
use crate::whole;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use vial_orchestrator::node::machine::{self, Facts};
use vial_orchestrator::object::is_dns_subdomain;

/// Upper bound of what is shown of a text of the system's, in characters.
const MAX_TEXT: usize = 256;

/// The Node's name: what it was called at first.
///
/// # Errors
/// It can't be noted.
pub fn name(paths: &Paths) -> io::Result<String> {
    let file = place::node(paths);
    if let Ok(noted) = std::fs::read_to_string(&file)
        && is_dns_subdomain(noted.trim())
    {
        return Ok(noted.trim().to_owned());
    }
    let name = machine::name_of(&hostname());
    // Half a name would be another node, and all pods would be those of a machine that is not there.
    whole::write(&file, name.as_bytes()).map_err(|error| named(error, "write", &file))?;
    Ok(name)
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Looks. What can't be seen is empty or nothing.
pub fn of(daemon: &Shared, name: &str) -> Facts {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let disk = rustix::fs::statvfs(&daemon.paths.data).ok();
    let blocks = |pick: fn(&rustix::fs::StatVfs) -> u64| {
        disk.as_ref().map_or(0, |disk| pick(disk).saturating_mul(disk.f_frsize))
    };
    Facts {
        name: name.to_owned(),
        hostname: hostname(),
        address: address(),
        cpus: std::thread::available_parallelism()
            .map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
        memory: field(&meminfo, "MemTotal:"),
        memory_available: field(&meminfo, "MemAvailable:"),
        disk: blocks(|disk| disk.f_blocks),
        disk_available: blocks(|disk| disk.f_bavail),
        machine_id: text("/etc/machine-id"),
        boot_id: daemon.boot.clone(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        os: os(&std::fs::read_to_string("/etc/os-release").unwrap_or_default()),
        unready: daemon.host().err().map(|error| error.to_string()),
    }
}

/// Bytes of memory that declared objects may take: an eighth of the machine's.
pub fn room_for_objects() -> usize {
    const LEAST: u64 = 64 << 20;
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    usize::try_from((field(&meminfo, "MemTotal:") / 8).max(LEAST)).unwrap_or(usize::MAX)
}

fn text(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().chars().take(MAX_TEXT).collect()
}

/// A line of /proc/meminfo in bytes.
pub(super) fn field(meminfo: &str, name: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

/// `PRETTY_NAME` of os-release(5).
fn os(release: &str) -> String {
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or("Linux", |name| name.trim_matches('"')).chars().take(MAX_TEXT).collect()
}

/// The address with which the machine would speak to others; the loopback's when it has no way to them. Nothing is sent.
fn address() -> String {
    // An address for documentation (RFC 5737): only the route to it is looked up.
    let route = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    };
    route().map_or(Ipv4Addr::LOCALHOST.into(), |address| address.ip()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_its_name_when_its_host_is_renamed() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { data: dir.path().into(), run: dir.path().into() };
        place::make(&paths).unwrap();
        let first = name(&paths).unwrap();
        assert_eq!(first, machine::name_of(&hostname()));
        std::fs::write(place::node(&paths), "of-before\n").unwrap();
        assert_eq!(name(&paths).unwrap(), "of-before");
        // What is no name is none.
        std::fs::write(place::node(&paths), "a b").unwrap();
        assert_eq!(name(&paths).unwrap(), first);
    }

    #[test]
    fn what_the_system_says_is_read() {
        let meminfo = "MemTotal:        2030332 kB\nMemFree: 1 kB\nMemAvailable:    1000 kB\n";
        assert_eq!(
            (field(meminfo, "MemTotal:"), field(meminfo, "MemAvailable:")),
            (2_030_332 << 10, 1000 << 10)
        );
        assert_eq!(field("nonsense", "MemTotal:"), 0);
        assert_eq!(os("ID=x\nPRETTY_NAME=\"Debian 12\"\n"), "Debian 12");
        assert_eq!(os(""), "Linux");
        assert!(address().parse::<std::net::IpAddr>().is_ok());
    }
}
