//! A pod's helper: a small process that lives as long as its VM, whoever else lives, and does for one pod what the kernel can't.
//!
//! It holds the pod's published ports, and relays what reaches them in spite of the kernel's address translation: connections to the host's own
//! `[::1]`, or all of them while the rules are missing. Where the host's resolver is one that pods can't reach it forwards
//! their questions. It opens nothing: its sockets come from the daemon, and it gives its rights up before it reads a packet.

mod dns;
mod tcp;
mod udp;

use crate::ports::{Held, Protocol};
use crate::{Lease, NetworkError};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

/// Descriptors that one message carries (SCM_MAX_FD).
const MAX_FDS: usize = 253;
/// Bytes of an order at most.
const MAX_ORDER: usize = 64 << 10;
/// Published ports of a pod at most: two sockets each, and a few more.
pub const MAX_PORTS: usize = 120;
/// The program's own word for this role.
pub const COMMAND: &str = "net-helper";
/// What it is called in the list of processes.
pub const NAME: &str = "vial-net-helper";
/// Who it becomes when its VM has no user of its own: nobody.
const NOBODY: u32 = 65_534;

/// What a helper is to do. Descriptors in this order: the VM's process, the sockets of `relays`, those of `resolver`.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    /// For each socket where what comes there goes.
    relays: Vec<(Protocol, SocketAddr)>,
    /// Whether questions for names come: on a UDP and on a listening TCP socket.
    resolver: bool,
    /// User and group to become.
    uid: u32,
}

/// Sockets for the forwarder on the pod's wire. None when a resolver of the host's own answers there.
///
/// # Errors
/// When the system refuses.
pub fn resolver_sockets(lease: &Lease) -> Result<Option<[OwnedFd; 2]>, NetworkError> {
    let address = SockAddr::from(SocketAddr::new(lease.gateway4.into(), 53));
    let bind = |kind| {
        let socket = Socket::new(Domain::IPV4, kind, None)?;
        socket.set_nonblocking(true)?;
        // The address is on every pod's wire; this one is for this pod only.
        socket.bind_device(Some(lease.interface.as_bytes()))?;
        socket.set_reuse_address(kind == Type::STREAM)?;
        socket.bind(&address)?;
        if kind == Type::STREAM {
            socket.listen(16)?;
        }
        Ok::<_, io::Error>(OwnedFd::from(socket))
    };
    match (|| Ok::<_, io::Error>([bind(Type::DGRAM)?, bind(Type::STREAM)?]))() {
        Ok(sockets) => Ok(Some(sockets)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => {
            Err(NetworkError::System { what: "listen for a pod's questions about names", source: error })
        }
    }
}

/// Starts the helper of a running pod: as `<program> net-helper`, in the VM's cgroup, so that it goes with it.
///
/// # Errors
/// When it can't be started.
pub fn spawn(
    lease: &Lease,
    vm: BorrowedFd<'_>,
    uid: Option<u32>,
    cgroup: Option<&Path>,
    held: &[Held],
    resolver: Option<&[OwnedFd; 2]>,
) -> Result<tokio::process::Child, NetworkError> {
    let failed = NetworkError::errno("make a socket pair");
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(failed)?;
    let target = |held: &Held| (held.port.protocol, SocketAddr::new(lease.v4.into(), held.port.pod));
    let order = Order {
        relays: held.iter().map(target).collect(),
        resolver: resolver.is_some(),
        uid: uid.unwrap_or(NOBODY),
    };
    let fds: Vec<BorrowedFd<'_>> = std::iter::once(vm)
        .chain(held.iter().map(|held| held.socket.as_fd()))
        .chain(resolver.into_iter().flatten().map(AsFd::as_fd))
        .collect();
    send(&ours, &order, &fds).map_err(NetworkError::system("send a pod's helper its sockets"))?;
    // This very program, even when its file was replaced meanwhile.
    let mut command = Command::new("/proc/self/exe");
    std::os::unix::process::CommandExt::arg0(&mut command, NAME);
    command.arg(COMMAND).env_clear().current_dir("/");
    command.stdin(theirs).stdout(Stdio::null()).stderr(Stdio::null());
    let child = tokio::process::Command::from(command)
        .spawn()
        .map_err(NetworkError::system("start a pod's network helper"))?;
    if let (Some(cgroup), Some(pid)) = (cgroup, child.id())
        && let Err(error) = std::fs::write(cgroup.join("cgroup.procs"), pid.to_string())
    {
        // It still ends with its VM, by itself.
        tracing::debug!(%error, "a pod's helper stays out of its cgroup");
    }
    Ok(child)
}

/// The helper's whole life: its exit status.
pub fn main() -> i32 {
    match run() {
        Ok(()) => 0,
        // Nobody reads its words: it was started with /dev/null.
        Err(_) => 1,
    }
}

fn run() -> io::Result<()> {
    let (order, fds) = receive(std::io::stdin().as_fd())?;
    give_up_rights(order.uid)?;
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or_else(|| io::Error::other("a descriptor is missing"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let vm = next()?;
        for (protocol, target) in order.relays {
            match protocol {
                Protocol::Tcp => drop(tokio::spawn(tcp::relay(listener(next()?)?, target))),
                Protocol::Udp => drop(tokio::spawn(udp::relay(datagrams(next()?)?, target))),
            }
        }
        if order.resolver {
            tokio::spawn(dns::datagrams(datagrams(next()?)?));
            tokio::spawn(dns::streams(listener(next()?)?));
        }
        let ended = tokio::task::spawn_blocking(move || {
            // A pidfd is readable from the process's end on.
            rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(&vm, PollFlags::IN)], None))
        });
        ended.await?.map(drop)?;
        Ok(())
    })
}

fn listener(fd: OwnedFd) -> io::Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::from_std(TcpListener::from(fd))
}

fn datagrams(fd: OwnedFd) -> io::Result<tokio::net::UdpSocket> {
    tokio::net::UdpSocket::from_std(UdpSocket::from(fd))
}

/// While there is one thread.
fn give_up_rights(uid: u32) -> io::Result<()> {
    use rustix::thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    set_no_new_privs(true)?;
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    set_thread_groups(&[])?;
    let (user, group) = (rustix::process::Uid::from_raw(uid), rustix::process::Gid::from_raw(uid));
    set_thread_res_gid(group, group, group)?;
    // Leaving root's id empties the capability sets too.
    Ok(set_thread_res_uid(user, user, user)?)
}

fn send(socket: &OwnedFd, order: &Order, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(order)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if bytes.len() > MAX_ORDER || !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::from(rustix::io::Errno::MSGSIZE));
    }
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(socket: BorrowedFd<'_>) -> io::Result<(Order, Vec<OwnedFd>)> {
    let mut bytes = vec![0; MAX_ORDER];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let length =
        recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok((serde_json::from_slice(bytes.get(..length).unwrap_or_default())?, fds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_travels_with_its_descriptors() {
        let (a, b) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let order = Order {
            relays: vec![(Protocol::Udp, "10.77.0.2:53".parse().unwrap()); MAX_PORTS * 2],
            resolver: true,
            uid: 1,
        };
        let fds: Vec<BorrowedFd<'_>> = std::iter::repeat_n(a.as_fd(), MAX_PORTS * 2 + 3).collect();
        send(&a, &order, &fds).unwrap();
        let (received, passed) = receive(b.as_fd()).unwrap();
        assert_eq!(received.relays, order.relays);
        assert_eq!(passed.len(), fds.len());
    }
}
