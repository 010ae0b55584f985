//! The metadata service's document.

use super::ConfigError;
use crate::api::config::{MmdsConfig, VmConfig};

/// Checks it against the interfaces of `config`.
///
/// # Errors
/// In Firecracker's words.
pub fn mmds(mmds: &MmdsConfig, config: &VmConfig) -> Result<(), ConfigError> {
    let fault = |text| Err(ConfigError::Mmds(text));
    if mmds.network_interfaces.is_empty() {
        return fault("The list of network interface IDs that allow forwarding MMDS requests is empty.");
    }
    if let Some(address) = mmds.ipv4_address {
        // RFC 3927, 2.1: the first and the last 256 addresses of 169.254/16 are reserved.
        if !address.is_link_local() || matches!(address.octets()[2], 0 | 255) {
            return fault("The MMDS IPv4 address is not link local.");
        }
    }
    let known = |id: &String| config.network_interfaces.iter().any(|net| net.iface_id == *id);
    if !mmds.network_interfaces.iter().all(known) {
        return fault(
            "The list of network interface IDs provided contains at least one ID that does not correspond to any existing \
             network interface.",
        );
    }
    let moved_by_host = |id: &String| {
        config.network_interfaces.iter().any(|net| net.iface_id == *id && net.vhost_net.is_some())
    };
    if mmds.network_interfaces.iter().any(moved_by_host) {
        return fault("An interface with vhost_net has no metadata service: its frames don't pass here.");
    }
    Ok(())
}
