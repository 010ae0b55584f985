//! Builds the jail around this process and executes the VMM in it.

use super::args::Order;
use super::{cgroup, place};
use crate::sys;
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind_recursive, mount_change, unmount};
use rustix::process::{Resource, Rlimit, pivot_root, setrlimit, setsid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Why there is no jail.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// Something about a file or folder.
    #[error("could not {step} {path:?}")]
    Path {
        /// What was being done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// errno.
        #[source]
        source: io::Error,
    },
    /// A step without one.
    #[error("could not {step}; the jailer needs root")]
    Step {
        /// What was being done.
        step: &'static str,
        /// errno.
        #[source]
        source: io::Error,
    },
    /// A limit that can't be.
    #[error("could not set --resource-limit {name}={value}; {advice}")]
    Limit {
        /// Which.
        name: &'static str,
        /// What it was to be.
        value: u64,
        /// What stands in the way.
        advice: &'static str,
        /// errno.
        #[source]
        source: io::Error,
    },
    /// Not a file, or not a folder.
    #[error("{option} {path:?} is no {kind}")]
    Kind {
        /// Which option names it.
        option: &'static str,
        /// What it names.
        path: PathBuf,
        /// What it has to be.
        kind: &'static str,
    },
    /// The program needs an interpreter or a dynamic linker, and the jail is empty.
    #[error(
        "could not execute {0:?}: what it needs besides itself (a dynamic linker, the interpreter of a script) is not in the jail; \
         give a static program"
    )]
    Dynamic(PathBuf),
    /// There is one.
    #[error("a VM runs in the jail of the id {0:?} already: end it, or give another --id")]
    Running(String),
    /// No cgroup v2.
    #[error("--cgroup and --parent-cgroup need the unified hierarchy, and none is mounted")]
    NoCgroups,
    /// The controller of a setting is not to be had.
    #[error(
        "the cgroup {group} has no controller {controller}: a cgroup of version 1 has it, or the kernel or the group above lacks it"
    )]
    NoController {
        /// Which.
        controller: String,
        /// Where it would be enabled.
        group: PathBuf,
    },
}

pub(super) fn step(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JailError {
    move |source| JailError::Path { step, path: path.to_owned(), source }
}

fn plain(step: &'static str) -> impl FnOnce(Errno) -> JailError {
    move |error| JailError::Step { step, source: error.into() }
}

/// Does it. Comes back only with an error, or when the VMM is a child in a PID namespace of its own; the calling process must have one
/// thread, and ends meanwhile if the VMM is to be a daemon.
///
/// # Errors
/// The step that failed; what was made until then stays, as with Firecracker's jailer.
pub fn run(order: &Order) -> Result<(), JailError> {
    let started = (sys::monotonic_us(), sys::cpu_us());
    let exec_file = find(order)?;
    sys::close_at_exec_from(3)
        .map_err(|source| JailError::Step { step: "let go of what was inherited", source })?;
    let root = order.root();
    // Not closed at exec.
    let _lock = place::hold(&order.base, [&order.exec_name, &order.id])?;
    let folder = place::folders(&order.base, &[&order.exec_name, &order.id, "root"])?;
    place::copy(&exec_file, folder.as_fd(), &order.exec_name)?;
    limit(order)?;
    if !order.cgroup.is_empty() {
        cgroup::enter(&order.parent_cgroup, &order.id, &order.cgroup)?;
    } else if order.parent_named {
        cgroup::join_parent(&order.parent_cgroup)?;
    }
    if let Some(path) = &order.netns {
        enter_network(path)?;
    }
    let null = Path::new("/dev/null");
    let null = OpenOptions::new().read(true).write(true).open(null).map_err(step("open", null))?;
    enter_root(&root)?;
    furnish(order)?;
    let spent = sys::cpu_us().saturating_sub(started.1);
    if order.daemonize {
        let child = |source| JailError::Step { step: "go on in a child", source };
        // The leader of a group of processes, as a shell's command is one, can't make a session; the leader of a session could get a terminal.
        sys::go_on_in_a_child().map_err(child)?;
        setsid().map_err(plain("make a session of its own"))?;
        sys::go_on_in_a_child().map_err(child)?;
        dup2_stdin(null.as_fd()).map_err(plain("let go of the standard input"))?;
        dup2_stdout(null.as_fd()).map_err(plain("let go of the standard output"))?;
        dup2_stderr(null.as_fd()).map_err(plain("let go of the standard error"))?;
    }
    drop(null);
    execute(order, started, spent)
}

/// The program's true name, once it is sure that there is a program, and a place for jails: nothing is made before.
fn find(order: &Order) -> Result<PathBuf, JailError> {
    let exec_file = fs::canonicalize(&order.exec_file).map_err(step("find", &order.exec_file))?;
    let wrong = |option, path: &Path, kind| JailError::Kind { option, path: path.to_owned(), kind };
    if !exec_file.is_file() {
        return Err(wrong("--exec-file", &order.exec_file, "file"));
    }
    let base = fs::metadata(&order.base).map_err(step("find the folder of jails", &order.base))?;
    if !base.is_dir() {
        return Err(wrong("--chroot-base-dir", &order.base, "folder"));
    }
    Ok(exec_file)
}

fn limit(order: &Order) -> Result<(), JailError> {
    let set = |resource, name, value| {
        let limit = Rlimit { current: Some(value), maximum: Some(value) };
        setrlimit(resource, limit).map_err(|error| {
            let advice = if resource == Resource::Nofile && most_files().is_some_and(|most| value > most) {
                "/proc/sys/fs/nr_open is the most"
            } else {
                "to raise a limit takes CAP_SYS_RESOURCE"
            };
            JailError::Limit { name, value, advice, source: error.into() }
        })
    };
    if let Some(bytes) = order.fsize {
        set(Resource::Fsize, "fsize", bytes)?;
    }
    set(Resource::Nofile, "no-file", order.no_file)
}

/// What no process's limit of descriptors may exceed, whoever it is.
fn most_files() -> Option<u64> {
    fs::read_to_string("/proc/sys/fs/nr_open").ok()?.trim().parse().ok()
}

fn enter_network(path: &Path) -> Result<(), JailError> {
    // Whatever it is that is named so: nobody need write into a pipe for it to be refused.
    let open = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty());
    let namespace = open.map_err(|error| step("open the network namespace", path)(error.into()))?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|error| step("enter the network namespace", path)(error.into()))
}

/// Makes `root` the root of this process, with nothing of the old tree left.
fn enter_root(root: &Path) -> Result<(), JailError> {
    sys::unshare_mounts().map_err(|source| JailError::Step { step: "make a mount namespace", source })?;
    // Nothing that is mounted here is seen outside.
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", flags).map_err(plain("keep mounts to itself"))?;
    // pivot_root(2) wants a mount point.
    mount_bind_recursive(root, root).map_err(|error| step("bind", root)(error.into()))?;
    std::env::set_current_dir(root).map_err(step("enter", root))?;
    // The old root comes to lie on top of the new one (pivot_root(2)): no folder of the jail's, which may be anything by now, is
    // needed for it.
    pivot_root(".", ".").map_err(plain("change the root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(plain("let go of the old root"))?;
    std::env::set_current_dir("/").map_err(step("enter", Path::new("/")))
}

/// Folders and devices, owned by the VMM's user.
fn furnish(order: &Order) -> Result<(), JailError> {
    let owner = (Uid::from_raw(order.uid), Gid::from_raw(order.gid));
    let root = Path::new("/");
    for below in [&[][..], &["dev"], &["dev", "net"], &["run"]] {
        place::give(place::folders(root, below)?.as_fd(), owner)?;
    }
    place::device(root, &["dev"], "kvm", (10, 232), owner)?;
    place::device(root, &["dev", "net"], "tun", (10, 200), owner)
}

fn execute(order: &Order, (wall, cpu): (u64, u64), spent: u64) -> Result<(), JailError> {
    let program = Path::new("/").join(&order.exec_name);
    // A new process's CPU clock begins at zero; one that goes on as itself goes on counting.
    let new = order.new_pid_ns || order.daemonize;
    let began = if new { 0 } else { cpu };
    let mut command = Command::new(&program);
    command.env_clear().arg("--id").arg(&order.id).args([
        "--start-time-us",
        &wall.to_string(),
        "--start-time-cpu-us",
        &began.to_string(),
    ]);
    if new {
        command.args(["--parent-cpu-time-us", &spent.to_string()]);
    }
    // Supplementary groups go with the user, as root's Command does it.
    command.args(&order.arguments).uid(order.uid).gid(order.gid);
    let failed = |source: io::Error| match source.kind() {
        // It was copied there, so what lacks is the one that loads its libraries (execve(2)).
        io::ErrorKind::NotFound if program.exists() => JailError::Dynamic(program.clone()),
        _ => step("execute", &program)(source),
    };
    if !order.new_pid_ns {
        leave_pid(order, std::process::id())?;
        return Err(failed(command.exec()));
    }
    sys::unshare_pids().map_err(|source| JailError::Step { step: "make a PID namespace", source })?;
    let mut child = command.spawn().map_err(failed)?;
    leave_pid(order, child.id()).inspect_err(|_| {
        // Nobody would find it.
        let _ = child.kill();
        let _ = child.wait();
    })
}

/// Where whoever asked for the jail looks for the VMM's process, which need not be the one that was started.
fn leave_pid(order: &Order, id: u32) -> Result<(), JailError> {
    let name = format!("{}.pid", order.exec_name);
    let path = Path::new("/").join(&name);
    let mut file = place::fresh(place::folders(Path::new("/"), &[])?.as_fd(), &name, 0o644)?;
    // `fsize` holds for this file too, and says so by a signal that would end the jailer without a word.
    sys::ignore_file_size_signal();
    let written = write!(file, "{id}");
    sys::heed_file_size_signal();
    // Half a number is another process's.
    written.inspect_err(|_| drop(fs::remove_file(&path))).map_err(step("write the process id to", &path))
}
