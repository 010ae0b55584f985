//! The agent's own file tree.

use rustix::mount::{MountFlags, mount, mount_move, mount_remount};
use rustix::process::{chdir, chroot};
use std::fs;
use std::io;

const NEW_ROOT: &str = "/newroot";

/// Moves onto a tmpfs, as switch_root does: pivot_root, which containers need, does not work on the initramfs.
///
/// The initramfs becomes read-only first: the running agent's own file is there, and a container that got hold of it through
/// /proc/self/exe must not be able to write to it.
pub fn leave_initramfs() -> io::Result<()> {
    let quiet = MountFlags::NOSUID | MountFlags::NODEV;
    fs::create_dir_all(NEW_ROOT)?;
    mount("tmpfs", NEW_ROOT, "tmpfs", quiet, c"mode=0755").map_err(context("the root tmpfs"))?;
    mount_remount("/", MountFlags::BIND | MountFlags::RDONLY, c"")
        .map_err(context("the initramfs as read-only"))?;
    chdir(NEW_ROOT)?;
    mount_move(".", "/").map_err(context("the new root"))?;
    chroot(".")?;
    chdir("/")?;
    Ok(())
}

/// Mounts what every Linux system has.
pub fn system() -> io::Result<()> {
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let device = MountFlags::NOSUID | MountFlags::NOEXEC;
    for (kind, place, flags, options) in [
        ("proc", "/proc", plain, c""),
        ("sysfs", "/sys", plain, c""),
        ("devtmpfs", "/dev", device, c"mode=0755"),
        ("devpts", "/dev/pts", device, c"newinstance,ptmxmode=0666,mode=0620,gid=5"),
        ("tmpfs", "/run", plain, c"mode=0755"),
        ("tmpfs", "/tmp", plain, c"mode=1777"),
        ("cgroup2", "/sys/fs/cgroup", plain, c"nsdelegate"),
    ] {
        if !fs::exists(place)? {
            fs::create_dir_all(place)?;
        }
        mount(kind, place, kind, flags, options).map_err(context(place))?;
    }
    Ok(())
}

fn context<E: Into<io::Error>>(what: &str) -> impl FnOnce(E) -> io::Error {
    move |error| {
        let error: io::Error = error.into();
        io::Error::new(error.kind(), format!("{what} can't be mounted: {error}"))
    }
}
