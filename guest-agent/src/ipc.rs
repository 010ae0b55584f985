//! What containers without an IPC namespace of their own share: the VM's.
//!
//! System V objects and POSIX message queues come with the namespace. POSIX shared memory is files on /dev/shm, so these containers get
//! one tmpfs there, of the agent's, which is charged to whoever writes.

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Mount, MountBuilder};
use rustix::mount::{MountFlags, mount};
use std::ffi::CString;
use std::fs;
use std::io;
use std::path::Path;

/// Where it lies.
const FOLDER: &str = "/run/vial/shm";
/// Where containers see it.
const PLACE: &str = "/dev/shm";
/// As Docker has it, if the spec does not say.
const OPTIONS: &str = "mode=1777,size=67108864";

/// Puts the shared memory in the place of a container's own tmpfs, if it is one that shares. Gives the options of the file system
/// that must be there ([`prepare`]) before the container is made. Something else on /dev/shm is left alone.
pub fn share(namespaces: &[LinuxNamespace], mounts: &mut [Mount]) -> Option<String> {
    if namespaces.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::Ipc) {
        return None;
    }
    let own = mounts
        .iter_mut()
        .find(|mount| mount.destination() == Path::new(PLACE) && mount.typ().as_deref() == Some("tmpfs"))?;
    let options = own.options().clone().unwrap_or_default();
    let sizes = ["size=", "mode=", "nr_inodes="];
    let (size, mut flags): (Vec<String>, Vec<String>) =
        options.into_iter().partition(|option| sizes.iter().any(|key| option.starts_with(key)));
    flags.extend(["rbind", "rprivate"].map(str::to_owned));
    let shared = MountBuilder::default().source(FOLDER).destination(PLACE).typ("bind").options(flags);
    // All parts are given, so it can be built.
    *own = shared.build().ok()?;
    Some(if size.is_empty() { OPTIONS.to_owned() } else { size.join(",") })
}

/// Mounts the shared memory, once: the options of the first container that shares count.
///
/// # Errors
/// When it can't be mounted.
pub fn prepare(options: &str) -> io::Result<()> {
    if fs::exists(FOLDER)? {
        return Ok(());
    }
    fs::create_dir_all(FOLDER)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let mounted = mount("shm", FOLDER, "tmpfs", flags, CString::new(options)?.as_c_str());
    if mounted.is_err() {
        // Else the next container would share a folder of the agent's own.
        let _ = fs::remove_dir(FOLDER);
    }
    Ok(mounted?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts() -> Vec<Mount> {
        let json = r#"[
            {"destination": "/dev", "type": "tmpfs", "options": ["size=65536k"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=4096"]}
        ]"#;
        serde_json::from_str(json).unwrap()
    }

    fn namespaces(json: &str) -> Vec<LinuxNamespace> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_container_without_a_namespace_of_its_own_shares() {
        let mut changed = mounts();
        let options = share(&namespaces(r#"[{"type": "mount"}, {"type": "pid"}]"#), &mut changed);
        assert_eq!(options.as_deref(), Some("mode=1777,size=4096"));
        assert_eq!(changed[0], mounts()[0]);
        let shm = &changed[1];
        assert_eq!((shm.source().as_deref(), shm.typ().as_deref()), (Some(Path::new(FOLDER)), Some("bind")));
        let flags = ["nosuid", "noexec", "nodev", "rbind", "rprivate"].map(str::to_owned).to_vec();
        assert_eq!(shm.options(), &Some(flags));
    }

    #[test]
    fn a_namespace_of_its_own_changes_nothing() {
        let mut same = mounts();
        assert_eq!(share(&namespaces(r#"[{"type": "mount"}, {"type": "ipc"}]"#), &mut same), None);
        assert_eq!(same, mounts());
    }

    #[test]
    fn what_the_spec_brings_itself_is_left_alone() {
        let own = MountBuilder::default().source("/data").destination(PLACE).typ("bind").build().unwrap();
        let mut mounts = vec![own.clone()];
        assert_eq!(share(&[], &mut mounts), None);
        assert_eq!(mounts, [own]);
        assert_eq!(share(&[], &mut []), None);
    }
}
