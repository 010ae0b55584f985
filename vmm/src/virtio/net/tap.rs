//! The host's end: a TAP with `struct virtio_net_hdr_v1` in front of every frame.

use crate::virtio::io::{ioctl_int, ioctl_ulong, readv, set_nonblocking, tap_flags, tap_queue};
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_USO,
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
const TUN_F_USO4: libc::c_ulong = 0x20;
const TUN_F_USO6: libc::c_ulong = 0x40;

/// What the driver may leave to the TAP.
const SEND: u64 = 1 << VIRTIO_NET_F_CSUM
    | 1 << VIRTIO_NET_F_HOST_TSO4
    | 1 << VIRTIO_NET_F_HOST_TSO6
    | 1 << VIRTIO_NET_F_HOST_ECN;

/// Each receive offload: what the driver calls it, what the TAP calls it.
const RECEIVE: [(u32, libc::c_ulong); 4] = [
    (VIRTIO_NET_F_GUEST_CSUM, TUN_F_CSUM),
    (VIRTIO_NET_F_GUEST_TSO4, TUN_F_TSO4),
    (VIRTIO_NET_F_GUEST_TSO6, TUN_F_TSO6),
    (VIRTIO_NET_F_GUEST_ECN, TUN_F_TSO_ECN),
];

/// The same for segmentation of UDP, which kernels know from 6.2 on.
const RECEIVE_UDP: [(u32, libc::c_ulong); 2] =
    [(VIRTIO_NET_F_GUEST_USO4, TUN_F_USO4), (VIRTIO_NET_F_GUEST_USO6, TUN_F_USO6)];

/// A file that can't carry frames.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// No file.
    #[error("the interface has no TAP")]
    None,
    /// TUNGETIFF failed.
    #[error("the network file is no TAP: {0}")]
    NoTap(io::Error),
    /// It is attached in another mode.
    #[error("the TAP must be attached with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR")]
    Mode,
    /// One queue where there should be several.
    #[error(
        "the TAP has one queue: make it with several (`ip tuntap add … multi_queue`), or leave queue_pairs out"
    )]
    MultiQueue,
    /// Not /dev/vhost-net.
    #[error("vhost_net can't be used: {0}; leave it out to let this process move the frames")]
    Vhost(io::Error),
    /// A limit needs timers.
    #[error("a rate limiter can't be made: {0}")]
    Timers(io::Error),
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
    /// Feature bits that come of what the TAP can do.
    features: u64,
    /// Whether its queue can be let go of and taken up again.
    multi_queue: bool,
    attached: AtomicBool,
}

fn flags(all: &[(u32, libc::c_ulong)]) -> libc::c_ulong {
    all.iter().fold(0, |flags, (_, flag)| flags | flag)
}

fn bits(all: &[(u32, libc::c_ulong)]) -> u64 {
    all.iter().fold(0, |bits, (feature, _)| bits | 1 << feature)
}

impl Tap {
    /// `wanted` is whether frames may come at once; if not, the TAP is told to give this queue none.
    pub(super) fn new(file: File, wanted: bool) -> Result<Self, TapError> {
        let kind = tap_flags(&file).map_err(TapError::NoTap)?;
        let needed = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        if kind & needed != needed {
            return Err(TapError::Mode);
        }
        let setting = |what| move |source| TapError::Setting { what, source };
        ioctl_int(&file, TUNSETVNETHDRSZ, HEADER as libc::c_int).map_err(setting("a header of 12 bytes"))?;
        // What can't be had for receiving (old kernels lack some) is not offered for sending either.
        let takes = |all: &[&[(u32, libc::c_ulong)]]| {
            ioctl_ulong(&file, TUNSETOFFLOAD, all.iter().fold(0, |sum, some| sum | flags(some))).is_ok()
        };
        let features = match (takes(&[&RECEIVE]), takes(&[&RECEIVE, &RECEIVE_UDP])) {
            (_, true) => SEND | bits(&RECEIVE) | 1 << VIRTIO_NET_F_HOST_USO | bits(&RECEIVE_UDP),
            (true, false) => SEND | bits(&RECEIVE),
            (false, false) => 0,
        };
        ioctl_ulong(&file, TUNSETOFFLOAD, 0).map_err(setting("to work without offloads"))?;
        set_nonblocking(&file).map_err(setting("not to block"))?;
        let multi_queue = kind & libc::IFF_MULTI_QUEUE != 0;
        let tap = Self { file, features, multi_queue, attached: AtomicBool::new(true) };
        if !wanted {
            if !multi_queue {
                return Err(TapError::MultiQueue);
            }
            tap.attach(false).map_err(setting("to let go of a queue"))?;
        }
        Ok(tap)
    }

    /// Anything that keeps frames apart, as a TAP in tests and fuzz targets.
    #[cfg(any(test, feature = "stand-in"))]
    pub(super) fn pretend(file: File) -> Self {
        let features = SEND | bits(&RECEIVE);
        Self { file, features, multi_queue: false, attached: AtomicBool::new(true) }
    }

    /// Takes up this queue of the TAP, or lets go of it: then the TAP gives its frames to others.
    pub(super) fn attach(&self, attach: bool) -> io::Result<()> {
        if self.multi_queue && self.attached.swap(attach, Ordering::Relaxed) != attach {
            tap_queue(&self.file, if attach { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE })?;
        }
        Ok(())
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
        self.features
    }

    /// Tells the TAP which frames a driver with these features can take. A TAP that took all of them at the start takes
    /// any of them now.
    pub(super) fn set_offloads(&self, features: u64) -> io::Result<()> {
        let accepted = RECEIVE.iter().chain(&RECEIVE_UDP).filter(|(feature, _)| features & 1 << feature != 0);
        ioctl_ulong(&self.file, TUNSETOFFLOAD, accepted.fold(0, |all, (_, tap)| all | tap))
    }
}
