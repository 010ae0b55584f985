//! The VM's network, which is the pod's: for now the loopback.

use crate::sys::ioctl::interface_up;
use std::fs;
use std::io;
use std::path::Path;

/// What Docker sets in each container's network namespace: any process may use low ports and send pings.
const DEFAULTS: [(&str, &str); 2] =
    [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

/// Brings the loopback up.
pub fn up() -> io::Result<()> {
    interface_up("lo")?;
    for (name, value) in DEFAULTS {
        set(name, value)?;
    }
    Ok(())
}

/// Sets a network setting by its dotted name.
///
/// # Errors
/// When the name is not one of the network's, or the kernel refuses the value.
pub fn set(name: &str, value: &str) -> io::Result<()> {
    let path = place(name).ok_or_else(|| io::Error::other(format!("{name:?} is no network setting")))?;
    fs::write(path, value).map_err(|error| io::Error::new(error.kind(), format!("{name}={value}: {error}")))
}

fn place(name: &str) -> Option<std::path::PathBuf> {
    let clean =
        name.starts_with("net.") && !name.contains('/') && !name.contains("..") && !name.contains('\0');
    clean.then(|| Path::new("/proc/sys").join(name.replace('.', "/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_networks_settings_have_a_place() {
        assert_eq!(place("net.ipv4.ip_forward"), Some("/proc/sys/net/ipv4/ip_forward".into()));
        for bad in ["kernel.core_pattern", "net...kernel.x", "net./../kernel", "/net.x", ""] {
            assert_eq!(place(bad), None, "{bad}");
        }
    }
}
