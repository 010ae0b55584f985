//! Where the helper lives: an empty, read-only tree in namespaces of its own.

use super::wire::Isolation;
use crate::sys;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, mount_remount, unmount,
};
use rustix::thread::{CapabilitySet, UnshareFlags, capabilities};
use std::io;

/// Namespaces of every VM. The helper's user namespace, if any, is shared by its VMs.
pub const VM_NAMESPACES: libc::c_int =
    libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// Goes there, as far as this user may.
///
/// With privileges no user namespace is made: every VM gets ids of its own and loses all capabilities, which is no
/// weaker, spares the kernel's user-namespace attack surface, and needs no uid maps (/proc is not in the helper's tree).
pub fn enter() -> Isolation {
    let have = capabilities(None).map(|c| c.effective).unwrap_or(CapabilitySet::empty());
    let own_ids = have.contains(CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::SETPCAP);
    let user_namespace = !have.contains(CapabilitySet::SYS_ADMIN);
    let entered = if user_namespace { enter_user_namespace() } else { Ok(()) };
    match entered.and_then(|()| empty_tree()) {
        Ok(()) => {
            Isolation { namespaces: true, own_ids: own_ids && !user_namespace, user_namespace, missing: None }
        }
        Err(e) => Isolation {
            namespaces: false,
            own_ids: own_ids && !user_namespace,
            user_namespace,
            missing: Some(format!("namespaces for the VM processes: {e}")),
        },
    }
}

/// Makes the helper root of a user namespace in which only its own user exists.
fn enter_user_namespace() -> io::Result<()> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    sys::unshare(UnshareFlags::NEWUSER)?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
}

/// Leaves the host's tree for a tmpfs with nothing in it.
fn empty_tree() -> io::Result<()> {
    sys::unshare(UnshareFlags::NEWNS)?;
    // Nothing of ours may travel back to the host.
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    // Any folder that every host has would do; only this namespace sees it covered.
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tmpfs", "/sys", "tmpfs", flags, Some(c"size=4k,nr_inodes=2,mode=555"))?;
    let new = rustix::fs::open("/sys", OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH, Mode::empty())?;
    rustix::process::fchdir(&new)?;
    // pivot_root(".", "."): the old root is then mounted over the new one, and goes with one unmount (pivot_root(2)).
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    Ok(mount_remount("/", flags | MountFlags::RDONLY, c"")?)
}
