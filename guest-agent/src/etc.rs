//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of the pod's containers: files of the agent, bound over the image's.
//!
//! A container may write them, as Docker's may; so they lie on a file system of their own that it can fill without filling the agent's.

use agent_protocol::EtcFiles;
use oci_spec::runtime::{Mount, MountBuilder};
use rustix::mount::{MountFlags, mount};
use std::fs;
use std::io;
use std::path::Path;

/// Where they lie.
const FOLDER: &str = "/run/vial/etc";
/// Bytes of all of them together, and a little room for a container's own entries.
const OPTIONS: &std::ffi::CStr = c"size=1m,mode=0755";
const NAMES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// Makes them, once.
///
/// # Errors
/// When the file system can't be mounted or is too small for them.
pub fn write(files: &EtcFiles) -> io::Result<()> {
    fs::create_dir_all(FOLDER)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tmpfs", FOLDER, "tmpfs", flags, OPTIONS)?;
    for (name, text) in NAMES.into_iter().zip([&files.hosts, &files.hostname, &files.resolv_conf]) {
        fs::write(Path::new(FOLDER).join(name), text)?;
    }
    Ok(())
}

/// Adds them to a container's mounts, but for those that it has something else for.
pub fn add_mounts(mounts: &mut Vec<Mount>) {
    add_from(Path::new(FOLDER), mounts);
}

fn add_from(folder: &Path, mounts: &mut Vec<Mount>) {
    for name in NAMES {
        let (source, destination) = (folder.join(name), Path::new("/etc").join(name));
        if !source.exists() || mounts.iter().any(|mount| mount.destination() == &destination) {
            continue;
        }
        let options = ["rbind", "rprivate", "nosuid", "nodev"].map(str::to_owned).to_vec();
        let mount =
            MountBuilder::default().source(source).destination(destination).typ("bind").options(options);
        // All parts are given, so it can be built.
        mounts.extend(mount.build());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_container_brings_itself_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["hosts", "hostname"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        let own = MountBuilder::default().source("/data").destination("/etc/hosts").build().unwrap();
        let mut mounts = vec![own.clone()];
        add_from(folder.path(), &mut mounts);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0], own);
        assert_eq!(mounts[1].destination(), Path::new("/etc/hostname"));
    }
}
