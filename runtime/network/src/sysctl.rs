//! Kernel settings: those of our own interfaces, and the one switch that is everybody's, forwarding.

use crate::NetworkError;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = "/proc/sys/net";
/// IPv4 forwarding of the whole host.
const FORWARD4: &str = "ipv4/ip_forward";
/// IPv6 forwarding of the whole host.
const FORWARD6: &str = "ipv6/conf/all/forwarding";

fn read(name: &str) -> Option<String> {
    fs::read_to_string(Path::new(ROOT).join(name)).ok().map(|text| text.trim().to_owned())
}

fn write(name: &str, value: &str) -> std::io::Result<()> {
    fs::write(Path::new(ROOT).join(name), value)
}

/// Whether the host has IPv6 at all.
pub fn has_ipv6() -> bool {
    Path::new(ROOT).join("ipv6").exists() && read("ipv6/conf/all/disable_ipv6").as_deref() != Some("1")
}

/// Whether the host forwards IPv6.
pub fn forwards6() -> bool {
    read(FORWARD6).as_deref() == Some("1")
}

/// Settings of one of our interfaces, before it comes up.
///
/// # Errors
/// When the kernel refuses.
pub fn interface(name: &str, ipv6: bool) -> Result<(), NetworkError> {
    let set = |setting: &str, value: &str| {
        write(&setting.replace('*', name), value)
            .map_err(NetworkError::system("set up a pod's interface under /proc/sys/net"))
    };
    // For the host's own 127.0.0.1:<published port>: the kernel must let translated packets from and to 127.0.0.1 use this interface. What a pod
    // itself sends to 127.0.0.0/8 the rules drop.
    set("ipv4/conf/*/route_localnet", "1")?;
    if ipv6 {
        // No address of its own making, and nothing believed of what a pod announces.
        set("ipv6/conf/*/addr_gen_mode", "1")?;
        set("ipv6/conf/*/accept_ra", "0")?;
    }
    Ok(())
}

/// What was switched on and has to be switched off again, as a note that outlives the daemon and not the host's run.
#[derive(Debug)]
pub struct Forwarding {
    note: PathBuf,
}

impl Forwarding {
    /// With the note in this folder.
    pub fn new(run: &Path) -> Self {
        Self { note: run.join("forwarding") }
    }

    /// Switches forwarding on where it is off. IPv6 only if asked: it makes the kernel ignore router advertisements.
    ///
    /// # Errors
    /// When the kernel refuses, or the note can't be written.
    pub fn on(&self, ipv6: bool) -> Result<(), NetworkError> {
        let wanted = [Some(FORWARD4), ipv6.then_some(FORWARD6)];
        let off: Vec<&str> =
            wanted.into_iter().flatten().filter(|name| read(name).as_deref() == Some("0")).collect();
        if off.is_empty() {
            return Ok(());
        }
        let mut noted = fs::read_to_string(&self.note).unwrap_or_default();
        for name in &off {
            if !noted.lines().any(|line| line == *name) {
                noted.push_str(name);
                noted.push('\n');
            }
        }
        // The note first: a switch without a note would stay for ever.
        fs::write(&self.note, noted).map_err(NetworkError::system("note which settings are changed"))?;
        for name in off {
            write(name, "1").map_err(NetworkError::system("switch packet forwarding on"))?;
            tracing::info!(setting = name, "packet forwarding is switched on for pods");
        }
        Ok(())
    }

    /// Switches off again what was switched on here, unless `others` need it by now.
    pub fn off(&self, others: bool) {
        let Ok(noted) = fs::read_to_string(&self.note) else { return };
        for name in [FORWARD4, FORWARD6].into_iter().filter(|name| noted.lines().any(|line| line == *name)) {
            if others {
                tracing::info!(setting = name, "forwarding stays on: other engines use it");
            } else if let Err(error) = write(name, "0") {
                tracing::warn!(setting = name, %error, "forwarding can't be switched off again");
            }
        }
        let _ = fs::remove_file(&self.note);
    }
}
