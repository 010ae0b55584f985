//! All VMs of a run folder: `<run dir>/vms/<id>/`. States are derived from facts, never stored.

use crate::cgroup::Cgroup;
use crate::dir::{Meta, VmDir};
use crate::exit::{Status, VmExit};
use crate::process::ProcessRecord;
use crate::{Error, Vm, VmId};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::fs::{DirBuilder, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Ids of VM processes are taken from here: a range that systemd's table of user ids leaves to nobody
/// (0x70000000 to 0x7fffffff), so neither people, services, nor other containers have one.
const UID_BASE: u32 = 0x7000_0000;
/// How many.
const UID_COUNT: u32 = 0x0fff_0000;

/// The VMs of a run folder.
#[derive(Debug, Clone)]
pub struct Registry {
    vms: PathBuf,
}

/// What is known of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmInfo {
    /// Its name.
    pub id: VmId,
    /// Who looks after it.
    pub owner: String,
    /// The owner's notes.
    pub labels: BTreeMap<String, String>,
    /// What it does now.
    #[serde(flatten)]
    pub state: VmState,
    /// Its process, while it runs.
    pub pid: Option<i32>,
    /// The user id of its process, if it has one of its own.
    pub uid: Option<u32>,
    /// Milliseconds since the epoch.
    pub created_unix_ms: u64,
    /// vCPUs.
    pub cpus: u8,
    /// MiB.
    pub memory_mib: u64,
    /// The kernel's path on the host.
    pub kernel: PathBuf,
    /// Its folder.
    pub folder: PathBuf,
    /// Its cgroup's folder.
    pub cgroup: Option<PathBuf>,
    /// Limits that the host could not enforce.
    pub unenforced: Vec<String>,
}

/// What a VM does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", content = "exit", rename_all = "snake_case")]
pub enum VmState {
    /// Its maker lives and has not started its process yet.
    Starting,
    /// Its process lives.
    Running,
    /// Its process is gone, or never came to be.
    Ended(VmExit),
}

impl Registry {
    /// The VMs below this run folder; makes `<run dir>/vms` where it does not exist.
    ///
    /// # Errors
    /// When the folder can't be made.
    pub fn open(run_dir: &Path) -> Result<Self, Error> {
        let vms = run_dir.join("vms");
        let make = |mode: u32, path: &Path| {
            DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(path)
                .map_err(Error::file("make the folder", path))
        };
        // As the daemon makes it, whoever is first.
        make(0o700, run_dir)?;
        make(0o700, &vms)?;
        Ok(Self { vms })
    }

    /// The folder of VM folders.
    pub fn folder(&self) -> &Path {
        &self.vms
    }

    pub(crate) fn dir(&self, id: &VmId) -> VmDir {
        VmDir::new(self.vms.join(id.as_str()))
    }

    /// Keeps other programs from making or sweeping VMs until it is dropped.
    fn lock(&self) -> Result<File, Error> {
        let path = self.vms.join(".lock");
        let options = File::options().write(true).create(true).truncate(false).open(&path);
        let file = options.map_err(Error::file("open", &path))?;
        flock(&file, FlockOperation::LockExclusive).map_err(|e| Error::file("lock", &path)(e.into()))?;
        Ok(file)
    }

    /// Makes the folder of a new VM with its notes, for which `fill` gets a user id that no other VM here has.
    pub(crate) fn create(&self, id: &VmId, fill: impl FnOnce(u32) -> Meta) -> Result<(VmDir, Meta), Error> {
        let _lock = self.lock()?;
        let taken: HashSet<u32> =
            self.metas()?.into_iter().filter_map(|(_, m)| m.and_then(|m| m.uid)).collect();
        let dir = self.dir(id);
        DirBuilder::new().mode(0o700).create(dir.path()).map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => Error::Exists(id.clone()),
            _ => Error::file("make the folder", dir.path())(e),
        })?;
        let meta = fill(free_uid(id, &taken));
        dir.write_meta(&meta)?;
        Ok((dir, meta))
    }

    /// Names and notes of all folders; folders without notes are leftovers of a maker that died.
    fn metas(&self) -> Result<Vec<(VmId, Option<Meta>)>, Error> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&self.vms).map_err(Error::file("read the folder", &self.vms))? {
            let entry = entry.map_err(Error::file("read the folder", &self.vms))?;
            let Some(id) = entry.file_name().to_str().and_then(|n| n.parse::<VmId>().ok()) else { continue };
            let meta = self.dir(&id).read_meta()?;
            all.push((id, meta));
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
    }

    /// All VMs, by name.
    ///
    /// # Errors
    /// When a folder can't be read.
    pub fn list(&self) -> Result<Vec<VmInfo>, Error> {
        let known = self.metas()?.into_iter().filter_map(|(id, meta)| Some((id, meta?)));
        known.map(|(id, meta)| info(&self.dir(&id), meta)).collect()
    }

    /// One VM.
    ///
    /// # Errors
    /// [`Error::NotFound`], or when its folder can't be read.
    pub fn info(&self, id: &VmId) -> Result<VmInfo, Error> {
        let dir = self.dir(id);
        let meta = dir.read_meta()?.ok_or_else(|| Error::NotFound(id.clone()))?;
        info(&dir, meta)
    }

    /// A handle for a VM that another program made, or this one before it was restarted. Of one that has ended, too.
    ///
    /// # Errors
    /// [`Error::NotFound`], or when its folder can't be read.
    pub async fn attach(&self, id: &VmId) -> Result<Vm, Error> {
        let dir = self.dir(id);
        let meta = dir.read_meta()?.ok_or_else(|| Error::NotFound(id.clone()))?;
        let pidfd = match dir.read_process()? {
            Some(record) => record.open().map_err(Error::system("look at the VM's process"))?,
            None => None,
        };
        Vm::from_parts(self.clone(), dir, meta, pidfd, None, None)
    }

    /// Removes what is left of a VM that has ended: its cgroup and its folder.
    ///
    /// # Errors
    /// [`Error::Running`] when it has not ended; [`Error::NotFound`].
    pub async fn remove(&self, id: &VmId) -> Result<(), Error> {
        let (registry, id) = (self.clone(), id.clone());
        unblock(move || {
            let _lock = registry.lock()?;
            registry.remove_locked(&id)
        })
        .await
    }

    fn remove_locked(&self, id: &VmId) -> Result<(), Error> {
        let dir = self.dir(id);
        if let Some(meta) = dir.read_meta()? {
            let cgroup = meta.cgroup.clone();
            if !matches!(info(&dir, meta)?.state, VmState::Ended(_)) {
                return Err(Error::Running(id.clone()));
            }
            if let Some(cgroup) = cgroup {
                Cgroup::at(cgroup).remove()?;
            }
        }
        self.discard(&dir, id)
    }

    /// Removes a folder, whatever it says.
    pub(crate) fn discard(&self, dir: &VmDir, id: &VmId) -> Result<(), Error> {
        std::fs::remove_dir_all(dir.path()).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::NotFound(id.clone()),
            _ => Error::file("remove", dir.path())(e),
        })
    }

    /// Removes what is left of all ended VMs of an owner, and of VMs whose maker died before it could write down whose they
    /// are. Returns their names.
    ///
    /// # Errors
    /// When a folder can't be read or removed.
    pub async fn sweep(&self, owner: &str) -> Result<Vec<VmId>, Error> {
        self.sweep_if(owner, |_| true).await
    }

    /// As [`Registry::sweep`], for those of whom `which` says so.
    ///
    /// # Errors
    /// When a folder can't be read or removed.
    pub async fn sweep_if(
        &self,
        owner: &str,
        which: impl Fn(&VmInfo) -> bool + Send + 'static,
    ) -> Result<Vec<VmId>, Error> {
        let (registry, owner) = (self.clone(), owner.to_owned());
        unblock(move || {
            let _lock = registry.lock()?;
            let mut swept = Vec::new();
            for (id, meta) in registry.metas()? {
                let dead = match meta {
                    // Notes are written under the lock, which we have.
                    None => true,
                    Some(meta) if meta.owner == owner => {
                        let info = info(&registry.dir(&id), meta)?;
                        matches!(info.state, VmState::Ended(_)) && which(&info)
                    }
                    Some(_) => false,
                };
                if dead {
                    registry.remove_locked(&id)?;
                    swept.push(id);
                }
            }
            Ok(swept)
        })
        .await
    }
}

/// Runs what blocks for a moment where it may.
pub(crate) async fn unblock<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(Error::System { what: "run a blocking step", source: std::io::Error::other(e) }),
    }
}

fn info(dir: &VmDir, meta: Meta) -> Result<VmInfo, Error> {
    let process = dir.read_process()?;
    let alive = process.as_ref().is_some_and(ProcessRecord::is_alive);
    let state = state(process.is_some(), alive, || meta.maker.is_alive(), || Status::read(&dir.status()));
    Ok(VmInfo {
        state,
        pid: process.filter(|_| alive).map(|p| p.pid),
        id: meta.id,
        owner: meta.owner,
        labels: meta.labels,
        uid: meta.uid,
        created_unix_ms: meta.created_unix_ms,
        cpus: meta.cpus,
        memory_mib: meta.memory_mib,
        kernel: meta.kernel,
        folder: dir.path().to_path_buf(),
        cgroup: meta.cgroup,
        unenforced: meta.unenforced,
    })
}

/// The state that the facts amount to.
fn state(
    recorded: bool,
    alive: bool,
    maker: impl FnOnce() -> bool,
    status: impl FnOnce() -> Status,
) -> VmState {
    match (recorded, alive) {
        (true, true) => VmState::Running,
        (true, false) => VmState::Ended(status().into_exit()),
        (false, _) if maker() => VmState::Starting,
        (false, _) => VmState::Ended(Status::default().into_exit()),
    }
}

/// A user id that is not taken; from the name, so that a name tends to keep its id.
fn free_uid(id: &VmId, taken: &HashSet<u32>) -> u32 {
    let mut hasher = DefaultHasher::new();
    id.as_str().hash(&mut hasher);
    let first = (hasher.finish() % u64::from(UID_COUNT)) as u32;
    let mut candidates = (0..UID_COUNT).map(|n| UID_BASE + (first + n) % UID_COUNT);
    candidates.find(|uid| !taken.contains(uid)).unwrap_or(UID_BASE + first)
}

#[cfg(test)]
mod tests;
