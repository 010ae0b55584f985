//! Where a VM's agent says its first word: the port of the host on which every agent introduces itself, as each VMM leads to it.

use agent_protocol::frame::{MAX_HEADER, PREFIX, body_length, decode};
use agent_protocol::{READY_PORT, Ready};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;
use vsock::{VMADDR_CID_ANY, VsockListener};

/// Listens to one VM.
#[derive(Debug)]
pub enum Ear {
    /// VMMs that end their guests' connections to the host themselves, at Unix sockets (Firecracker's way).
    Unix(UnixListener, PathBuf),
    /// Those that leave them to the host's kernel.
    Vsock(VsockListener),
}

impl Ear {
    /// For a VM whose socket device is at the path `device`: a connection to a port of the host ends at that path with `_` and the port.
    ///
    /// # Errors
    /// When nobody can listen there.
    pub fn beside(device: &Path) -> io::Result<Self> {
        let mut path = device.as_os_str().to_owned();
        path.push(format!("_{READY_PORT}"));
        let listener = UnixListener::bind(&path)?;
        Ok(Self::Unix(listener, path.into()))
    }

    /// For a VM on vhost-vsock. This host has one such port, for all of its VMs.
    ///
    /// # Errors
    /// When the host has no vsock, or somebody listens there.
    pub fn of_the_host() -> io::Result<Self> {
        VsockListener::bind_with_cid_port(VMADDR_CID_ANY, READY_PORT).map(Self::Vsock)
    }

    /// Takes the connection that is there, and reads what the agent says on it, for which it has so long.
    pub(super) fn hear(&self, patience: Duration) -> io::Result<Ready> {
        match self {
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept()?;
                stream.set_read_timeout(Some(patience))?;
                read(stream)
            }
            Self::Vsock(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_read_timeout(Some(patience))?;
                read(stream)
            }
        }
    }
}

impl AsFd for Ear {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(listener, _) => listener.as_fd(),
            Self::Vsock(listener) => listener.as_fd(),
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// One frame of the [protocol](agent_protocol): nothing else is taken for an agent.
fn read(mut stream: impl Read) -> io::Result<Ready> {
    let mut prefix = [0; PREFIX];
    stream.read_exact(&mut prefix)?;
    let mut body = vec![0; body_length(prefix, MAX_HEADER).map_err(io::Error::other)?];
    stream.read_exact(&mut body)?;
    decode(&body).map_err(io::Error::other)
}
