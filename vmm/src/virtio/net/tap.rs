//! The host's end: a TAP with `struct virtio_net_hdr_v1` in front of every frame.

use crate::virtio::io::{ioctl_int, ioctl_ulong, readv, set_nonblocking, tap_flags};
use std::fs::File;
use std::io;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
};
use vm_memory::VolatileSlice;

/// Bytes of the header that modern drivers use always (section 5.1.6).
pub(super) const HEADER: usize = 12;

// From linux/if_tun.h.
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
const TUN_F_CSUM: libc::c_ulong = 1;
const TUN_F_TSO4: libc::c_ulong = 2;
const TUN_F_TSO6: libc::c_ulong = 4;
const TUN_F_TSO_ECN: libc::c_ulong = 8;

/// Each receive offload: what the driver calls it, what the TAP calls it.
const RECEIVE: [(u32, libc::c_ulong); 4] = [
    (VIRTIO_NET_F_GUEST_CSUM, TUN_F_CSUM),
    (VIRTIO_NET_F_GUEST_TSO4, TUN_F_TSO4),
    (VIRTIO_NET_F_GUEST_TSO6, TUN_F_TSO6),
    (VIRTIO_NET_F_GUEST_ECN, TUN_F_TSO_ECN),
];

/// A file that can't carry frames.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// TUNGETIFF failed.
    #[error("the network file is no TAP: {0}")]
    NoTap(io::Error),
    /// It is attached in another mode.
    #[error("the TAP must be attached with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR")]
    Mode,
    /// It refuses a setting.
    #[error("the TAP refuses {what}: {source}")]
    Setting {
        /// Which.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

/// What came of asking for a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// One of this length, header included.
    Frame(usize),
    /// None for now, or a TAP that is down: its next event tells.
    Nothing,
    /// Never one again: the TAP was deleted.
    Gone,
}

/// An attached TAP that does not block.
pub(super) struct Tap {
    file: File,
    offloads: bool,
}

impl Tap {
    pub(super) fn new(file: File) -> Result<Self, TapError> {
        let flags = tap_flags(&file).map_err(TapError::NoTap)?;
        let wanted = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        if flags & wanted != wanted {
            return Err(TapError::Mode);
        }
        let setting = |what| move |source| TapError::Setting { what, source };
        ioctl_int(&file, TUNSETVNETHDRSZ, HEADER as libc::c_int).map_err(setting("a header of 12 bytes"))?;
        // What can't be had for receiving (old kernels lack some) is not offered for sending either.
        let all = RECEIVE.iter().fold(0, |all, (_, tap)| all | tap);
        let offloads = ioctl_ulong(&file, TUNSETOFFLOAD, all).is_ok();
        ioctl_ulong(&file, TUNSETOFFLOAD, 0).map_err(setting("to work without offloads"))?;
        set_nonblocking(&file).map_err(setting("not to block"))?;
        Ok(Self { file, offloads })
    }

    /// Anything that keeps frames apart, as a TAP in tests.
    #[cfg(test)]
    pub(super) fn pretend(file: File) -> Self {
        Self { file, offloads: true }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Takes a frame, if there is one.
    pub(super) fn receive(&self, into: &[VolatileSlice<'_>]) -> Received {
        match readv(&self.file, into) {
            Ok(len) if len >= HEADER => Received::Frame(len),
            Ok(1..) => Received::Nothing,
            // No frame is empty; this is how sockets say it.
            Ok(0) => Received::Gone,
            Err(error) if error.raw_os_error() == Some(libc::EBADFD) => Received::Gone,
            Err(_) => Received::Nothing,
        }
    }

    /// The feature bits that come of what the TAP can do.
    pub(super) fn features(&self) -> u64 {
        if !self.offloads {
            return 0;
        }
        let send = [VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_ECN];
        let receive = RECEIVE.iter().map(|(feature, _)| *feature);
        send.into_iter().chain(receive).fold(0, |all, feature| all | 1 << feature)
    }

    /// Tells the TAP which frames a driver with these features can take. A TAP that took all of them at the start takes
    /// any of them now.
    pub(super) fn set_offloads(&self, features: u64) -> io::Result<()> {
        let flags = RECEIVE.iter().filter(|(feature, _)| features & 1 << feature != 0);
        ioctl_ulong(&self.file, TUNSETOFFLOAD, flags.fold(0, |all, (_, tap)| all | tap))
    }
}
