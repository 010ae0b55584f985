//! What a front end and its back end agree on before there is a driver.

use super::CONFIG_LEN;
use super::link::{Link, LinkError, deadline};
use super::message::{Answer, ProtocolError, Request, config_request, number};
use std::time::Instant;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;

/// VHOST_USER_F_PROTOCOL_FEATURES, a bit among the device's features that no driver ever sees.
pub const PROTOCOL_FEATURES: u64 = 1 << 30;
const MQ: u64 = 1 << 0;
const REPLY_ACK: u64 = 1 << 3;
const CONFIG: u64 = 1 << 9;

/// Why a back end can't be this device's.
#[derive(Debug, thiserror::Error)]
pub enum BackEndError {
    /// The connection.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Too old.
    #[error(
        "its back end has no vhost-user protocol features, which devices of these kinds need; use a newer one"
    )]
    Old,
    /// No virtio 1.
    #[error("its back end does not offer VIRTIO_F_VERSION_1: it serves legacy drivers only; use a newer one")]
    Legacy,
    /// No configuration space.
    #[error(
        "its back end does not tell its configuration space (VHOST_USER_PROTOCOL_F_CONFIG): is it one for disks?"
    )]
    NoConfig,
    /// Not so many queues.
    #[error("it has {wanted} queues, and its back end serves {has}; lower num_queues")]
    Queues {
        /// As many as the configuration asks for, in all.
        wanted: usize,
        /// As many as the back end has.
        has: u64,
    },
    /// An event can't be made.
    #[error("its events can't be made")]
    Events(#[source] std::io::Error),
}

/// What a device needs of its back end.
#[derive(Debug, Clone, Copy)]
pub struct Wants {
    /// So many queues.
    pub queues: usize,
    /// Its configuration space.
    pub config: bool,
}

/// What was agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// What the back end offers of a device's features, and of its rings.
    pub features: u64,
    /// The configuration space, if it was wanted.
    pub config: Option<[u8; CONFIG_LEN]>,
}

/// The protocol features to be used with a back end that has these: a pure function.
///
/// # Errors
/// It lacks something.
pub fn choose(wants: Wants, features: u64, protocol: u64) -> Result<u64, BackEndError> {
    match () {
        () if features & PROTOCOL_FEATURES == 0 => Err(BackEndError::Old),
        () if features & 1 << VIRTIO_F_VERSION_1 == 0 => Err(BackEndError::Legacy),
        () if wants.config && protocol & CONFIG == 0 => Err(BackEndError::NoConfig),
        // What the specification promises of a back end that does not say how many it has.
        () if wants.queues > 1 && protocol & MQ == 0 => {
            Err(BackEndError::Queues { wanted: wants.queues, has: 1 })
        }
        () => Ok(protocol & (MQ | REPLY_ACK | if wants.config { CONFIG } else { 0 })),
    }
}

/// Makes a connection this process's and finds out what is behind it.
///
/// # Errors
/// See [`BackEndError`].
pub fn agree(link: &mut Link, wants: Wants) -> Result<Terms, BackEndError> {
    let by = deadline();
    let features = link.ask_number(Request::GetFeatures, by)?;
    if features & PROTOCOL_FEATURES == 0 {
        return Err(BackEndError::Old);
    }
    let protocol = link.ask_number(Request::GetProtocolFeatures, by)?;
    let chosen = choose(wants, features, protocol)?;
    link.tell(Request::SetProtocolFeatures, &number(chosen), &[], by)?;
    link.acks = chosen & REPLY_ACK != 0;
    if chosen & MQ != 0 {
        let has = link.ask_number(Request::GetQueueNum, by)?;
        if has < wants.queues as u64 {
            return Err(BackEndError::Queues { wanted: wants.queues, has });
        }
    }
    link.tell(Request::SetOwner, &[], &[], by)?;
    let config = if wants.config { Some(config_space(link, by)?) } else { None };
    Ok(Terms { features, config })
}

/// Reads the configuration space, as it is now, until `by`.
///
/// # Errors
/// See [`LinkError`].
pub fn config_space(link: &mut Link, by: Instant) -> Result<[u8; CONFIG_LEN], LinkError> {
    match link.ask(Request::GetConfig, &config_request(CONFIG_LEN), by)? {
        Answer::Config(space) => Ok(space),
        _ => Err(ProtocolError::Subject(Request::GetConfig).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: u64 = PROTOCOL_FEATURES | 1 << VIRTIO_F_VERSION_1;

    #[test]
    fn only_what_both_know_is_used_and_what_lacks_is_named() {
        let disk = Wants { queues: 1, config: true };
        assert_eq!(choose(disk, GOOD, u64::MAX).unwrap(), MQ | REPLY_ACK | CONFIG);
        assert_eq!(choose(disk, GOOD, CONFIG).unwrap(), CONFIG);
        let files = Wants { queues: 2, config: false };
        assert_eq!(choose(files, GOOD, MQ | CONFIG).unwrap(), MQ);
        for (wants, features, protocol, why) in [
            (disk, GOOD, 0, "configuration space"),
            (disk, 1 << VIRTIO_F_VERSION_1, CONFIG, "protocol features"),
            (disk, PROTOCOL_FEATURES, CONFIG, "VERSION_1"),
            (files, GOOD, CONFIG, "2 queues"),
        ] {
            let error = choose(wants, features, protocol).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
