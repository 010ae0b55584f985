//! Builds the jail around this process and executes the VMM in it.

use super::args::Order;
use super::cgroup;
use crate::sys;
use rustix::fs::{AtFlags, Gid, Uid};
use rustix::fs::{CWD, FileType, Mode, chownat, makedev, mknodat};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind_recursive, mount_change, unmount};
use rustix::process::{Resource, Rlimit, chroot, pivot_root, setrlimit, setsid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
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
    /// No cgroup v2.
    #[error("--cgroup and --parent-cgroup need the unified hierarchy, and none is mounted")]
    NoCgroups,
}

pub(super) fn step(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JailError {
    move |source| JailError::Path { step, path: path.to_owned(), source }
}

fn plain(step: &'static str) -> impl FnOnce(Errno) -> JailError {
    move |error| JailError::Step { step, source: error.into() }
}

/// Does it. Comes back only with an error, or in the parent when the VMM has a PID namespace of its own; the calling process
/// must have one thread.
///
/// # Errors
/// The step that failed; what was made until then stays, as with Firecracker's jailer.
pub fn run(order: &Order) -> Result<(), JailError> {
    let started = (sys::monotonic_us(), sys::cpu_us());
    let exec_file = fs::canonicalize(&order.exec_file).map_err(step("find", &order.exec_file))?;
    sys::close_at_exec_from(3)
        .map_err(|source| JailError::Step { step: "let go of what was inherited", source })?;
    let root = order.root();
    fs::create_dir_all(&root).map_err(step("make", &root))?;
    let copy = root.join(&order.exec_name);
    fs::copy(&exec_file, &copy).map_err(step("copy the program to", &copy))?;
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
    if order.daemonize {
        setsid().map_err(plain("make a session of its own"))?;
        dup2_stdin(null.as_fd()).map_err(plain("let go of the standard input"))?;
        dup2_stdout(null.as_fd()).map_err(plain("let go of the standard output"))?;
        dup2_stderr(null.as_fd()).map_err(plain("let go of the standard error"))?;
    }
    drop(null);
    execute(order, started)
}

fn limit(order: &Order) -> Result<(), JailError> {
    let set = |resource, value| {
        let limit = Rlimit { current: Some(value), maximum: Some(value) };
        setrlimit(resource, limit).map_err(plain("set a limit"))
    };
    if let Some(bytes) = order.fsize {
        set(Resource::Fsize, bytes)?;
    }
    set(Resource::Nofile, order.no_file)
}

fn enter_network(path: &Path) -> Result<(), JailError> {
    let namespace = File::open(path).map_err(step("open the network namespace", path))?;
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
    let old = Path::new("old_root");
    fs::create_dir_all(old).map_err(step("make", old))?;
    pivot_root(".", old).map_err(plain("change the root"))?;
    std::env::set_current_dir("/").map_err(step("enter", Path::new("/")))?;
    unmount(old, UnmountFlags::DETACH).map_err(plain("let go of the old root"))?;
    fs::remove_dir(old).map_err(step("remove", old))?;
    chroot(".").map_err(plain("enter the new root"))
}

/// Folders and devices, owned by the VMM's user.
fn furnish(order: &Order) -> Result<(), JailError> {
    for folder in ["/", "/dev", "/dev/net", "/run"] {
        let folder = Path::new(folder);
        fs::create_dir_all(folder).map_err(step("make", folder))?;
        fs::set_permissions(folder, Permissions::from_mode(0o700)).map_err(step("close", folder))?;
        own(folder, order)?;
    }
    for (path, major, minor) in [("/dev/kvm", 10, 232), ("/dev/net/tun", 10, 200)] {
        let path = Path::new(path);
        let mode = Mode::RUSR | Mode::WUSR;
        match mknodat(CWD, path, FileType::CharacterDevice, mode, makedev(major, minor)) {
            // The jail was used before.
            Ok(()) | Err(Errno::EXIST) => own(path, order)?,
            Err(error) => return Err(step("make", path)(error.into())),
        }
    }
    Ok(())
}

fn own(path: &Path, order: &Order) -> Result<(), JailError> {
    let (uid, gid) = (Uid::from_raw(order.uid), Gid::from_raw(order.gid));
    chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| step("give away", path)(error.into()))
}

fn execute(order: &Order, (wall, cpu): (u64, u64)) -> Result<(), JailError> {
    let program = Path::new("/").join(&order.exec_name);
    let spent = sys::cpu_us().saturating_sub(cpu);
    // A new process's CPU clock begins at zero; one that goes on as itself goes on counting.
    let began = if order.new_pid_ns { 0 } else { cpu };
    let mut command = Command::new(&program);
    command.env_clear().arg("--id").arg(&order.id).args([
        "--start-time-us",
        &wall.to_string(),
        "--start-time-cpu-us",
        &began.to_string(),
    ]);
    if order.new_pid_ns {
        command.args(["--parent-cpu-time-us", &spent.to_string()]);
    }
    // Supplementary groups go with the user, as root's Command does it.
    command.args(&order.arguments).uid(order.uid).gid(order.gid);
    if !order.new_pid_ns {
        return Err(step("execute", &program)(command.exec()));
    }
    sys::unshare_pids().map_err(|source| JailError::Step { step: "make a PID namespace", source })?;
    let child = command.spawn().map_err(step("execute", &program))?;
    let path = Path::new("/").join(format!("{}.pid", order.exec_name));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .map_err(step("write the process id to", &path))?;
    write!(file, "{}", child.id()).map_err(step("write the process id to", &path))
}
