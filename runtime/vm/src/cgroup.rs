//! One cgroup (version 2) per VM: `<mount>/vial/<name>`.
//!
//! Outside of the caller's own cgroup on purpose: ending a login or a unit must not end the VMs that were started from it.

use crate::Error;
use crate::process::wait_readable;
use crate::spec::Limits;
use rustix::event::PollFlags;
use rustix::fs::{Mode, OFlags};
use std::fs;
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Controllers that VMs are limited with.
pub const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];
/// f_type of a cgroup v2 mount (linux/magic.h).
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
/// How long the kernel may take to take a killed process out of its cgroup, in milliseconds; it is far below one.
const REMOVE_WITHIN_MS: u32 = 5_000;

/// Where cgroup v2 is mounted: alone, or beside version 1.
pub fn mount_point() -> Option<PathBuf> {
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| rustix::fs::statfs(path).is_ok_and(|s| s.f_type as u64 == CGROUP2_SUPER_MAGIC))
}

/// A VM's cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes `<mount>/vial/<name>` with these limits. Returns it with the names of the limits that this host can't enforce.
    ///
    /// # Errors
    /// When the folder can't be made, or exists.
    pub fn create(mount: &Path, name: &str, limits: &Limits) -> Result<(Self, Vec<String>), Error> {
        let parent = mount.join("vial");
        let path = parent.join(name);
        // The last VM to go removes the parent, perhaps between our two steps.
        for attempt in 0.. {
            let made = fs::create_dir(&parent);
            made.or_else(|e| if e.kind() == ErrorKind::AlreadyExists { Ok(()) } else { Err(e) })
                .map_err(Error::file("make the cgroup", &parent))?;
            enable(mount);
            enable(&parent);
            match fs::create_dir(&path) {
                Ok(()) => break,
                Err(e) if e.kind() == ErrorKind::NotFound && attempt < 3 => {}
                Err(e) => return Err(Error::file("make the cgroup", &path)(e)),
            }
        }
        let cgroup = Self { path };
        let unenforced = cgroup.limit(limits);
        Ok((cgroup, unenforced))
    }

    /// The cgroup at this path, as a VM's notes name it.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A descriptor for CLONE_INTO_CGROUP.
    ///
    /// # Errors
    /// When the folder can't be opened.
    pub fn open(&self) -> Result<OwnedFd, Error> {
        open_folder(&self.path).map_err(Error::file("open the cgroup", &self.path))
    }

    fn limit(&self, limits: &Limits) -> Vec<String> {
        let mut wanted = Vec::new();
        wanted.extend(limits.memory_max.map(|v| ("memory.max", v.to_string())));
        wanted.extend(limits.pids_max.map(|v| ("pids.max", v.to_string())));
        wanted.extend(limits.cpu_max.map(|v| ("cpu.max", format!("{} {}", v.quota_us, v.period_us))));
        wanted.extend(limits.cpu_weight.map(|v| ("cpu.weight", v.to_string())));
        let set = |name: &str, value: &str| fs::write(self.path.join(name), value);
        wanted
            .into_iter()
            .filter(|(name, value)| set(name, value).is_err())
            .map(|(name, _)| name.to_owned())
            .collect()
    }

    /// Kills whatever is in it and removes it, and the common parent with the last one. A cgroup that does not exist
    /// is removed already. Blocks for the moment until the kernel has taken the killed out.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn remove(&self) -> Result<(), Error> {
        let gone = |e: &io::Error| e.kind() == ErrorKind::NotFound || e.raw_os_error() == Some(libc::ENODEV);
        match fs::remove_dir(&self.path) {
            Ok(()) => {}
            Err(e) if gone(&e) => {}
            Err(_) => {
                let removed = self.empty().and_then(|()| fs::remove_dir(&self.path));
                removed
                    .or_else(|e| if gone(&e) { Ok(()) } else { Err(e) })
                    .map_err(Error::file("remove the cgroup", &self.path))?;
            }
        }
        if let Some(parent) = self.path.parent() {
            // It fails while others are in it, as it should.
            let _ = fs::remove_dir(parent);
        }
        Ok(())
    }

    /// Kills all and waits until the kernel says that nobody is left.
    fn empty(&self) -> io::Result<()> {
        let mut events = fs::File::open(self.path.join("cgroup.events"))?;
        match fs::OpenOptions::new().write(true).open(self.path.join("cgroup.kill")) {
            Ok(mut file) => file.write_all(b"1")?,
            // Before Linux 5.14; the processes are dying anyway when a VM is removed.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        loop {
            let mut text = String::new();
            events.rewind()?;
            events.read_to_string(&mut text)?;
            if text.lines().any(|l| l == "populated 0") {
                return Ok(());
            }
            if !wait_readable(&events, PollFlags::PRI, Some(REMOVE_WITHIN_MS))? {
                return Err(io::Error::new(ErrorKind::TimedOut, "processes in it do not die"));
            }
        }
    }
}

fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY, Mode::empty())?)
}

/// Hands the controllers to the children, one by one since one that is refused would take the others with it.
fn enable(folder: &Path) {
    for controller in CONTROLLERS {
        let _ = fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// Needs a writable cgroup v2 tree, which a user without privileges does not have.
    fn writable_mount() -> Option<PathBuf> {
        mount_point().filter(|m| rustix::fs::access(m, rustix::fs::Access::WRITE_OK).is_ok())
    }

    #[test]
    fn comes_and_goes_with_its_processes() {
        let Some(mount) = writable_mount() else { return };
        let id = format!("test-{}", std::process::id());
        let (cgroup, unenforced) = Cgroup::create(&mount, &id, &Limits::for_vm(1, 128)).unwrap();
        let has = |f: &str| cgroup.path().join(f).exists();
        assert_eq!(unenforced.iter().any(|n| n == "memory.max"), !has("memory.max"));
        assert!(Cgroup::create(&mount, &id, &Limits::default()).is_err(), "two VMs never share one");
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        fs::write(cgroup.path().join("cgroup.procs"), child.id().to_string()).unwrap();
        cgroup.remove().unwrap();
        assert!(!cgroup.path().exists());
        assert!(!child.wait().unwrap().success());
        cgroup.remove().unwrap();
    }
}
