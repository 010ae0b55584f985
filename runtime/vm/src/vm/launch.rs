//! From a description to a running process: folder, cgroup, open files, order to the launcher.

use super::disk::{Disks, open_regular};
use super::{Launched, Vm};
use crate::cgroup::{self, Cgroup};
use crate::dir::{Meta, VmDir};
use crate::id::{hex, random_bytes};
use crate::launcher::{Cargo, Order, Tie};
use crate::process::{self, ProcessRecord, wait_readable};
use crate::spec::plan::max_open;
use crate::spec::{ConsoleSpec, DiskSource, Opening, Plan, TapSource, VmSpec, plan};
use crate::{Error, Launcher, Parts, Registry, VmId, sys, sys_path};
use rustix::event::PollFlags;
use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create};
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// RLIMIT_FSIZE is never below this: logs and status need some.
const MIN_MAX_FILE: u64 = 64 << 20;

/// A launched VM that nobody has a handle of yet.
struct New {
    registry: Registry,
    dir: VmDir,
    meta: Meta,
    pidfd: OwnedFd,
    ready: Option<UnixStream>,
    launched: Launched,
}

/// Does all of it where it may block. The caller may go away meanwhile: then the VM goes too.
pub async fn launch(
    launcher: Launcher,
    registry: Registry,
    parts: Parts,
    id: VmId,
    spec: VmSpec,
) -> Result<Vm, Error> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    tokio::task::spawn_blocking(move || {
        if let Err(Ok(unwanted)) = sender.send(launch_blocking(&launcher, registry, &parts, &id, spec)) {
            unwanted.abandon();
        }
    });
    let new = receiver
        .await
        .map_err(|e| Error::System { what: "start a VM", source: std::io::Error::other(e) })??;
    Vm::from_parts(new.registry, new.dir, new.meta, Some(new.pidfd), new.ready, Some(new.launched))
}

impl New {
    fn abandon(self) {
        let _ = process::kill(&self.pidfd);
        let _ = wait_readable(&self.pidfd, PollFlags::IN, None);
        clean(&self.registry, &self.dir, &self.meta);
    }
}

/// Removes cgroup and folder of a VM that is none. A failure leaves something for the next sweep.
fn clean(registry: &Registry, dir: &VmDir, meta: &Meta) {
    let cgroup = meta.cgroup.clone().map_or(Ok(()), |path| Cgroup::at(path).remove());
    if let Err(error) = cgroup.and_then(|()| registry.discard(dir, &meta.id)) {
        tracing::warn!(vm = %meta.id, %error, "the remains of a failed start stay until the next sweep");
    }
}

fn launch_blocking(
    launcher: &Launcher,
    registry: Registry,
    parts: &Parts,
    id: &VmId,
    mut spec: VmSpec,
) -> Result<New, Error> {
    let plan = plan(&spec)?;
    let host = host_memory_mib();
    if spec.memory_mib > host {
        // The kernel may promise it all the same, and kill something when the guest uses it.
        return Err(Error::Spec(format!(
            "it would have {} MiB of memory, and this machine has {host} MiB in all; give it less",
            spec.memory_mib
        )));
    }
    let maker = ProcessRecord::current().map_err(Error::system("read /proc"))?;
    let boot_id = maker.boot_id.clone();
    let mount = cgroup::mount_point().filter(|_| !launcher.isolation().user_namespace);
    // Run folders are many, the cgroup tree is one: a name of its own, so that nobody ever cleans away another's VM.
    let group = format!("{id}.{}", hex(&random_bytes::<4>()?));
    let (dir, mut meta) = registry.create(id, |uid| Meta {
        id: id.clone(),
        owner: spec.owner.clone(),
        labels: spec.labels.clone(),
        created_unix_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64),
        created_mono_us: sys::monotonic_us(),
        cpus: spec.cpus,
        memory_mib: spec.memory_mib,
        kernel: spec.kernel.clone(),
        agent: spec.agent,
        uid: launcher.isolation().own_ids.then_some(uid),
        // Before it exists, so that whoever finds this folder finds the cgroup.
        cgroup: mount.as_ref().map(|m| m.join("vial").join(&group)),
        limits: spec.limits,
        unenforced: Vec::new(),
        maker,
    })?;
    let made = (|| {
        let cgroup = match &mount {
            Some(mount) => {
                let (cgroup, unenforced) = Cgroup::create(mount, &group, &spec.limits)?;
                if !unenforced.is_empty() {
                    tracing::debug!(vm = %id, ?unenforced, "limits that this host can't enforce");
                    meta.unenforced = unenforced;
                    dir.write_meta(&meta)?;
                }
                Some(cgroup.open()?)
            }
            None => None,
        };
        let (opened, ready) = open_all(&dir, &mut spec, &plan)?;
        let exec = open(&parts.vmm, OFlags::RDONLY)?;
        let record = VmDir::create_file(&dir.process(), false)?;
        let stderr = VmDir::create_file(&dir.vmm_log(), true)?;
        let folder = if spec.tied { Some(open(registry.folder(), OFlags::DIRECTORY)?) } else { None };
        let order = Order {
            args: arguments(id, &plan),
            cgroup: cgroup.is_some(),
            uid: meta.uid,
            boot_id,
            max_file: max_file(&spec, &plan),
            max_open: max_open(&spec),
            tie: spec.tied.then(|| Tie { folder: id.as_str().to_owned(), cgroup: group.clone() }),
        };
        let cargo = Cargo {
            exec: exec.as_fd(),
            record: record.as_fd(),
            stderr: stderr.as_fd(),
            cgroup: cgroup.as_ref().map(AsFd::as_fd),
            folder: folder.as_ref().map(AsFd::as_fd),
            table: opened.iter().map(AsFd::as_fd).collect(),
        };
        let opened_us = sys::monotonic_us();
        let (pidfd, made) = launcher.launch(&order, &cargo)?;
        Ok((pidfd, Launched { opened_us, made }, ready))
    })();
    match made {
        Ok((pidfd, launched, ready)) => Ok(New { registry, dir, meta, pidfd, ready, launched }),
        Err(error) => {
            clean(&registry, &dir, &meta);
            Err(error)
        }
    }
}

/// All of this machine's memory, in MiB.
pub fn host_memory_mib() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram * u64::from(info.mem_unit)) >> 20
}

fn arguments(id: &VmId, plan: &Plan) -> Vec<String> {
    let number = |opening| plan.number_of(opening).expect("every plan has it").to_string();
    let words = [
        "vial-vmm",
        "--id",
        id.as_str(),
        "--config-fd",
        &number(&Opening::Config),
        "--kvm-fd",
        &number(&Opening::Kvm),
    ];
    words.map(str::to_owned).to_vec()
}

/// The longest file that the VMM may write: its largest writable disk or medium, or its memory, which may be a file too.
fn max_file(spec: &VmSpec, plan: &Plan) -> u64 {
    let disks = plan.table.iter().filter_map(|opening| match opening {
        Opening::Disk { path, read_only: false } => std::fs::metadata(path).ok().map(|m| m.len()),
        _ => None,
    });
    let media = spec.disks.iter().filter_map(|disk| match disk.source {
        DiskSource::Removable { max_bytes } if !disk.read_only => Some(max_bytes),
        _ => None,
    });
    let memory = spec.memory_mib.saturating_mul(1 << 20);
    disks.chain(media).chain([memory, MIN_MAX_FILE]).max().unwrap_or(MIN_MAX_FILE)
}

pub fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, Error> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::file("open", path)(e.into()))
}

/// Opens the whole table; beside it our end of the agent's pair.
fn open_all(
    dir: &VmDir,
    spec: &mut VmSpec,
    plan: &Plan,
) -> Result<(Vec<OwnedFd>, Option<UnixStream>), Error> {
    let mut ready = None;
    let mut disks = Disks::default();
    let console = std::mem::take(&mut spec.console);
    let (mut input, mut output) = match console {
        ConsoleSpec::Fds { input, output } => (input, Some(output)),
        _ => (None, None),
    };
    let mut open_one = |opening: &Opening| -> Result<OwnedFd, Error> {
        Ok(match opening {
            Opening::Config => document(dir, plan)?,
            Opening::Kvm => open(Path::new("/dev/kvm"), OFlags::RDWR)?,
            Opening::Status => VmDir::create_file(&dir.status(), true)?.into(),
            Opening::Control => listen(&dir.control())?,
            Opening::Vsock => listen(&dir.vsock())?,
            Opening::Read(path) => open_regular(path, OFlags::RDONLY)?,
            Opening::Disk { path, read_only } => disks.open(path, *read_only)?,
            Opening::BackEnd(path) => connect(path)?,
            Opening::ConsoleLog => VmDir::create_file(&dir.console_log(), true)?.into(),
            Opening::ConsoleInput => input.take().expect("planned from this very description"),
            Opening::ConsoleOutput => output.take().expect("planned from this very description"),
            Opening::Ready => {
                let (ours, theirs) = UnixStream::pair().map_err(Error::system("make a socket pair"))?;
                ready = Some(ours);
                theirs.into()
            }
            Opening::Tap(name) => open_tap(name)?,
            Opening::OpenTap(index) => {
                match std::mem::replace(&mut spec.nets[*index].tap, TapSource::Named(String::new())) {
                    TapSource::Open(tap) => tap,
                    TapSource::Named(_) => unreachable!("planned from this very description"),
                }
            }
        })
    };
    let opened: Result<Vec<OwnedFd>, Error> = plan.table.iter().map(&mut open_one).collect();
    Ok((opened?, ready))
}

/// The configuration in a file that exists in memory only, and in the VM's folder for people and for [`Vm::insert`].
fn document(dir: &VmDir, plan: &Plan) -> Result<OwnedFd, Error> {
    let text = serde_json::to_vec_pretty(&plan.config).expect("plain data with text keys is always JSON");
    let path = dir.config();
    VmDir::create_file(&path, false)?.write_all(&text).map_err(Error::file("write", &path))?;
    let fill = || {
        let mut file = File::from(memfd_create(c"vial-config", MemfdFlags::CLOEXEC)?);
        file.write_all(&text)?;
        file.rewind()?;
        Ok(file.into())
    };
    fill().map_err(Error::system("make the configuration document"))
}

fn listen(path: &Path) -> Result<OwnedFd, Error> {
    // The shortened path is valid only while the folder is open.
    let (short, _folder) = sys_path::short(path).map_err(Error::file("open", path))?;
    Ok(UnixListener::bind(&short).map_err(Error::file("listen on", path))?.into())
}

/// A vhost-user back end that listens. One that is busy is an error: nothing would end the wait for it, not even the caller's going away.
fn connect(path: &Path) -> Result<OwnedFd, Error> {
    let (short, _folder) = sys_path::short(path).map_err(Error::file("find the back end's socket", path))?;
    Ok(vmm::back_ends::dial(&short)
        .map_err(Error::file("connect to the vhost-user back end at", path))?
        .into())
}

fn open_tap(name: &str) -> Result<OwnedFd, Error> {
    let known = Path::new("/sys/class/net").join(name).join("tun_flags");
    if !known.exists() {
        // Attaching would make one, with nothing connected to it, that goes with the VM.
        return Err(Error::Spec(format!(
            "there is no TAP device {name:?}; make it with: ip tuntap add {name} mode tap vnet_hdr"
        )));
    }
    let tun = open(Path::new("/dev/net/tun"), OFlags::RDWR | OFlags::NONBLOCK)?;
    sys::attach_tap(&tun, name).map_err(Error::file("attach to the TAP device", Path::new(name)))?;
    Ok(tun)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_back_end_whose_queue_is_full_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("back-end");
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let _first = connect(&path).unwrap();
        let error = connect(&path).unwrap_err();
        assert!(vmm::chain(&error).contains("it is busy"), "{error}");
    }
}
