//! Interfaces, one by one and together.

use super::{ConfigError, MAX_PAIRS, MIN_MTU, mac, rate_limiter};
use crate::api::config::{FileSource, NetworkInterface};
use std::collections::HashSet;

pub(super) fn check_interface(net: &NetworkInterface) -> Result<(), ConfigError> {
    let id = || net.iface_id.clone();
    mac(net, "")?;
    let name = |which| format!("interface {:?}: {which}_rate_limiter", net.iface_id);
    rate_limiter(&name("rx"), net.rx_rate_limiter.as_ref())?;
    rate_limiter(&name("tx"), net.tx_rate_limiter.as_ref())?;
    if !(1..=MAX_PAIRS).contains(&net.queue_pairs) {
        return Err(ConfigError::Pairs(id(), net.queue_pairs));
    }
    let by_path = matches!(net.host_dev_name, FileSource::Path(_));
    let more = if by_path { 0 } else { usize::from(net.queue_pairs) - 1 };
    if net.more_queues.len() != more {
        return Err(ConfigError::MoreQueues(id(), more));
    }
    let limited = net.rx_rate_limiter.is_some() || net.tx_rate_limiter.is_some();
    if net.vhost_net.is_some() && (limited || net.queue_pairs > 1) {
        return Err(ConfigError::Vhost(id()));
    }
    match net.mtu {
        Some(mtu) if mtu < MIN_MTU => Err(ConfigError::Mtu(id(), mtu)),
        _ => Ok(()),
    }
}

/// No address and no TAP belongs to two interfaces.
///
/// # Errors
/// One does.
pub fn each_its_own(interfaces: &[NetworkInterface]) -> Result<(), ConfigError> {
    let (mut addresses, mut taps) = (HashSet::new(), HashSet::new());
    for net in interfaces {
        if let Some(text) = &net.guest_mac
            && !addresses.insert(mac(net, "")?)
        {
            return Err(ConfigError::MacTaken(text.clone()));
        }
        if let FileSource::Path(name) = &net.host_dev_name
            && !taps.insert(name)
        {
            let name = name.display().to_string();
            return Err(ConfigError::Duplicate { field: "host_dev_name", name });
        }
    }
    Ok(())
}
