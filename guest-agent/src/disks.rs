//! Finding a disk by its serial number, waiting for it, or for its medium, if the kernel has not announced it yet.

use crate::errors::internal;
use crate::sys::watch::watch;
use agent_protocol::{AgentError, ErrorKind};
use rustix::fs::{Mode, OFlags, open};
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
/// Bytes of the sectors in which the kernel tells a disk's size, whatever its blocks.
const SECTOR: u64 = 512;
/// Cold-booted disks are there before the agent is; a hot-plugged one, or a new medium, takes milliseconds.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The device node of the disk with this serial; with a size given, once it has exactly this size in bytes.
///
/// # Errors
/// [`ErrorKind::NotFound`] when it does not appear, or its medium does not, in time. [`ErrorKind::WrongState`] when a size is given and
/// the disk is in use: a second mount would show the file system of the medium before.
pub async fn find(serial: &str, bytes: Option<u64>) -> Result<PathBuf, AgentError> {
    if serial.is_empty() || serial.len() > SERIAL_MAX || !serial.bytes().all(|b| b.is_ascii_graphic()) {
        let message = format!("{serial:?} is no disk serial: 1 to {SERIAL_MAX} printable characters");
        return Err(AgentError::new(ErrorKind::InvalidArgument, message));
    }
    let blocks = Path::new("/sys/block");
    let disk = match scan(blocks, serial, bytes) {
        Some(disk) => disk,
        None => match tokio::time::timeout(LONGEST_WAIT, announced(serial, bytes)).await {
            Ok(found) => found?,
            Err(_elapsed) => return Err(absent(blocks, serial, bytes)),
        },
    };
    if bytes.is_some() && is_in_use(&disk) {
        let message = format!("disk {serial:?} is still in use by a container before");
        return Err(AgentError::new(ErrorKind::WrongState, message));
    }
    Ok(disk)
}

fn absent(blocks: &Path, serial: &str, bytes: Option<u64>) -> AgentError {
    let there = scan(blocks, serial, None).and_then(|disk| size(&blocks.join(disk.file_name()?)));
    let message = match (there, bytes) {
        (Some(there), Some(bytes)) => format!(
            "disk {serial:?} has {there} bytes and not, within {LONGEST_WAIT:?}, the {bytes} of its new medium"
        ),
        _ => format!("no disk with serial {serial:?} appeared within {LONGEST_WAIT:?}"),
    };
    AgentError::new(ErrorKind::NotFound, message)
}

/// Whether a file system holds the disk, mounted or not.
pub fn is_in_use(disk: &Path) -> bool {
    // Without O_CREAT this is not about making files: of a block device the kernel gives only one exclusive holder (open(2)).
    let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC;
    matches!(open(disk, flags, Mode::empty()), Err(rustix::io::Errno::BUSY))
}

async fn announced(serial: &str, bytes: Option<u64>) -> Result<PathBuf, AgentError> {
    let socket = events().map_err(internal("the kernel's device events can't be heard"))?;
    loop {
        // Looking comes after listening, so that nothing falls between the two.
        if let Some(disk) = scan(Path::new("/sys/block"), serial, bytes) {
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

fn scan(blocks: &Path, serial: &str, bytes: Option<u64>) -> Option<PathBuf> {
    fs::read_dir(blocks).ok()?.flatten().find_map(|entry| {
        // The size first: the serial is asked of the device.
        if bytes.is_some() && size(&entry.path()) != bytes {
            return None;
        }
        let found = fs::read_to_string(entry.path().join("serial")).ok()?;
        (found.trim_end() == serial).then(|| Path::new("/dev").join(entry.file_name()))
    })
}

/// Size of a disk in bytes.
fn size(block: &Path) -> Option<u64> {
    let sectors: u64 = fs::read_to_string(block.join("size")).ok()?.trim_end().parse().ok()?;
    sectors.checked_mul(SECTOR)
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
        assert_eq!(scan(blocks.path(), "image", None), Some("/dev/vda".into()));
        assert_eq!(scan(blocks.path(), "upper", None), Some("/dev/vdb".into()));
        assert_eq!(scan(blocks.path(), "uppe", None), None);
    }

    #[test]
    fn a_medium_is_known_by_its_exact_size() {
        let blocks = tempfile::tempdir().unwrap();
        let disk = blocks.path().join("vda");
        fs::create_dir(&disk).unwrap();
        fs::write(disk.join("serial"), "image0\n").unwrap();
        for (sectors, expected) in [("1\n", None), ("8\n", Some("/dev/vda".into())), ("rubbish", None)] {
            fs::write(disk.join("size"), sectors).unwrap();
            assert_eq!(scan(blocks.path(), "image0", Some(4096)), expected, "{sectors}");
        }
        fs::write(disk.join("size"), "1\n").unwrap();
        let message = absent(blocks.path(), "image0", Some(4096)).message;
        assert!(message.contains("has 512 bytes") && message.contains("the 4096 of"), "{message}");
        assert!(absent(blocks.path(), "image1", Some(4096)).message.contains("no disk"));
    }
}
