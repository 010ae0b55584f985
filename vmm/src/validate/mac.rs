//! MAC addresses of interfaces.

use super::ConfigError;
use crate::api::config::NetworkInterface;

/// The MAC address of an interface: the one given, or one derived from its name and the VM's (FNV-1a), locally
/// administered.
pub fn mac(net: &NetworkInterface, vm: &str) -> Result<[u8; 6], ConfigError> {
    let Some(text) = &net.guest_mac else {
        let hash =
            vm.bytes().chain([0]).chain(net.iface_id.bytes()).fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
            });
        let [a, b, c, d, e, ..] = hash.to_le_bytes();
        return Ok([2, a, b, c, d, e]);
    };
    let bad = || ConfigError::Mac(text.clone());
    let parts: Vec<u8> = text
        .split(':')
        .map(|part| match part.len() {
            2 if part.bytes().all(|byte| byte.is_ascii_hexdigit()) => u8::from_str_radix(part, 16).ok(),
            _ => None,
        })
        .collect::<Option<_>>()
        .ok_or_else(bad)?;
    let address: [u8; 6] = parts.try_into().map_err(|_| bad())?;
    // Bit 0 of the first byte marks groups (IEEE 802).
    if address[0] & 1 != 0 || address == [0; 6] { Err(bad()) } else { Ok(address) }
}
