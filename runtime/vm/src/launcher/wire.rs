//! What program and helper say to each other: one JSON document a packet, with descriptors beside it.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Upper bound of a packet in bytes.
const MAX_PACKET: usize = 32 << 10;
/// The kernel's bound on descriptors in one packet (SCM_MAX_FD).
const MAX_FDS: usize = 253;

/// What a helper could set up around its VMs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolation {
    /// VMs get mount, PID, network, IPC and UTS namespaces of their own, and an empty tree.
    pub namespaces: bool,
    /// Each VM gets a user and group id of its own.
    pub own_ids: bool,
    /// The helper lives in a user namespace, because the user has no privileges.
    pub user_namespace: bool,
    /// Why something of it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// A process to be made. Its descriptors, in this order: program, process record, standard error, cgroup (if
/// `cgroup`), folder of VM folders (if `tie`), then what the program gets from number 3 on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// Arguments, the program's name first.
    pub args: Vec<String>,
    /// Whether a cgroup comes along.
    pub cgroup: bool,
    /// User and group id; none keeps the helper's.
    pub uid: Option<u32>,
    /// This boot, for the process record.
    pub boot_id: String,
    /// RLIMIT_FSIZE in bytes.
    pub max_file: u64,
    /// RLIMIT_NOFILE.
    pub max_open: u64,
    /// The VM dies with the program.
    pub tie: Option<Tie>,
}

/// What to clean up when the program is gone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tie {
    /// Name of the VM's folder.
    pub folder: String,
    /// Name of its cgroup.
    pub cgroup: String,
}

/// When a process was made: CLOCK_MONOTONIC, microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// The order was read.
    pub ordered_us: u64,
    /// The process was cloned into its cgroup and namespaces.
    pub cloned_us: u64,
    /// Its record was written and its gate opened.
    pub released_us: u64,
    /// It had given up what it may not have, and executed the program.
    pub executed_us: u64,
}

/// What came of an order.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It runs; its descriptor comes along.
    Started(Made),
    /// It does not.
    Failed {
        /// Where it failed.
        stage: String,
        /// The system's error number.
        errno: i32,
    },
}

/// Sends one packet.
pub fn send<T: Serialize>(socket: BorrowedFd<'_>, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MAX_PACKET || fds.len() > MAX_FDS {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    loop {
        // NOSIGNAL, because the peer's end is an answer and not a reason to die.
        match sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Receives one packet; none is the end.
pub fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; MAX_PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let length = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) => break message.bytes,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    };
    if length == 0 {
        return Ok(None);
    }
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok(Some((serde_json::from_slice(&bytes[..length])?, fds)))
}
