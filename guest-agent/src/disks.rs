//! Finding a disk by its serial number, waiting for it if the kernel has not announced it yet.

use crate::errors::internal;
use crate::sys::watch::watch;
use agent_protocol::{AgentError, ErrorKind};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink, recv, socket_with};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// Longest serial of a virtio block device, in bytes (virtio 1.2, 5.2.6: `VIRTIO_BLK_T_GET_ID`).
const SERIAL_MAX: usize = 20;
/// The kernel's own uevents, as opposed to those of udev.
const KERNEL_EVENTS: u32 = 1;
/// Cold-booted disks are there before the agent is; a hot-plugged one takes milliseconds.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The device node of the disk with this serial.
///
/// # Errors
/// [`ErrorKind::NotFound`] when it does not appear in time.
pub async fn find(serial: &str) -> Result<PathBuf, AgentError> {
    if serial.is_empty() || serial.len() > SERIAL_MAX || !serial.bytes().all(|b| b.is_ascii_graphic()) {
        let message = format!("{serial:?} is no disk serial: 1 to {SERIAL_MAX} printable characters");
        return Err(AgentError::new(ErrorKind::InvalidArgument, message));
    }
    if let Some(disk) = scan(Path::new("/sys/block"), serial) {
        return Ok(disk);
    }
    match tokio::time::timeout(LONGEST_WAIT, announced(serial)).await {
        Ok(found) => found,
        Err(_elapsed) => {
            let message = format!("no disk with serial {serial:?} appeared within {LONGEST_WAIT:?}");
            Err(AgentError::new(ErrorKind::NotFound, message))
        }
    }
}

async fn announced(serial: &str) -> Result<PathBuf, AgentError> {
    let socket = events().map_err(internal("the kernel's device events can't be heard"))?;
    loop {
        // Looking comes after listening, so that nothing falls between the two.
        if let Some(disk) = scan(Path::new("/sys/block"), serial) {
            return Ok(disk);
        }
        let mut ready = socket.readable().await.map_err(internal("waiting for a disk"))?;
        // The content does not matter; an overrun only means that there was much of it.
        let mut buffer = [0; 2048];
        while recv(socket.get_ref(), &mut buffer, RecvFlags::DONTWAIT).is_ok() {}
        ready.clear_ready();
    }
}

fn events() -> std::io::Result<AsyncFd<OwnedFd>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::KOBJECT_UEVENT))?;
    bind(&socket, &netlink::SocketAddrNetlink::new(0, KERNEL_EVENTS))?;
    watch(socket)
}

fn scan(blocks: &Path, serial: &str) -> Option<PathBuf> {
    fs::read_dir(blocks).ok()?.flatten().find_map(|entry| {
        let found = fs::read_to_string(entry.path().join("serial")).ok()?;
        (found.trim_end() == serial).then(|| Path::new("/dev").join(entry.file_name()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_known_by_its_serial() {
        let blocks = tempfile::tempdir().unwrap();
        for (disk, serial) in [("vda", Some("image\n")), ("vdb", Some("upper")), ("vdc", None)] {
            let dir = blocks.path().join(disk);
            fs::create_dir(&dir).unwrap();
            if let Some(serial) = serial {
                fs::write(dir.join("serial"), serial).unwrap();
            }
        }
        assert_eq!(scan(blocks.path(), "image"), Some("/dev/vda".into()));
        assert_eq!(scan(blocks.path(), "upper"), Some("/dev/vdb".into()));
        assert_eq!(scan(blocks.path(), "uppe"), None);
    }
}
