//! The pod's interface: addresses, routes, neighbours, as the host says.

use crate::netlink::Batch;
use agent_protocol::Network;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

const CLASS: &str = "/sys/class/net";
/// A pod has a few of each; a frame has room for many.
const MAX_EACH: usize = 64;

/// Sets it up. On return packets flow.
///
/// # Errors
/// When there is no such interface, or the kernel refuses something.
pub fn set_up(network: &Network) -> io::Result<()> {
    let counts = [network.addresses.len(), network.routes.len(), network.neighbours.len()];
    if counts.iter().any(|count| *count > MAX_EACH) {
        return Err(io::Error::other(format!("more than {MAX_EACH} addresses, routes or neighbours")));
    }
    let name = find(Path::new(CLASS), &network.mac)?;
    let index = fs::read_to_string(Path::new(CLASS).join(&name).join("ifindex"))?;
    let index: u32 = index.trim().parse().map_err(io::Error::other)?;
    if network.addresses.iter().any(IpAddr::is_ipv6) {
        // The host says everything; nobody else's announcements count.
        fs::write(format!("/proc/sys/net/ipv6/conf/{name}/accept_ra"), "0")?;
    }
    let mut batch = Batch::default();
    batch.link_up(index, network.mtu);
    for ip in &network.addresses {
        batch.address(index, ip);
    }
    for neighbour in &network.neighbours {
        let mac = parse_mac(&neighbour.mac)
            .ok_or_else(|| io::Error::other(format!("{:?} is no link-layer address", neighbour.mac)))?;
        batch.neighbour(index, &neighbour.ip, mac);
    }
    for route in &network.routes {
        batch.route(index, &route.destination, route.length, &route.gateway);
    }
    batch.send()
}

/// The name of the interface with this address.
fn find(class: &Path, mac: &str) -> io::Result<String> {
    for entry in fs::read_dir(class)? {
        let entry = entry?;
        let address = fs::read_to_string(entry.path().join("address")).unwrap_or_default();
        if address.trim().eq_ignore_ascii_case(mac) {
            return entry
                .file_name()
                .into_string()
                .map_err(|_| io::Error::other("an interface with an odd name"));
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("this VM has no interface with the address {mac}")))
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let parts: Option<Vec<u8>> = text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    parts?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interface_is_found_by_its_address() {
        let class = tempfile::tempdir().unwrap();
        for (name, address) in [("lo", "00:00:00:00:00:00\n"), ("eth0", "0a:76:0a:4d:00:02\n")] {
            fs::create_dir(class.path().join(name)).unwrap();
            fs::write(class.path().join(name).join("address"), address).unwrap();
        }
        assert_eq!(find(class.path(), "0A:76:0a:4d:00:02").unwrap(), "eth0");
        assert!(find(class.path(), "0a:76:0a:4d:00:03").is_err());
    }

    #[test]
    fn link_layer_addresses_have_six_parts() {
        assert_eq!(parse_mac("0a:76:0a:4d:00:02"), Some([10, 118, 10, 77, 0, 2]));
        for bad in ["", "0a:76:0a:4d:00", "0a:76:0a:4d:00:02:03", "0a:76:0a:4d:00:zz", "a-b"] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }
}
