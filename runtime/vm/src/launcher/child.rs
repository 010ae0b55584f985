//! The last steps of a new process before it becomes the VMM: everything it may not have is taken from it.

use crate::process::wait_readable;
use crate::sys;
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, Scope,
};
use rustix::event::PollFlags;
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::ffi::CString;
use std::io::{self, Read, Write};
use std::os::fd::{OwnedFd, RawFd};

/// Number of the first descriptor of the table.
const FIRST: RawFd = crate::spec::plan::FIRST_FD;

/// What the new process gets.
pub struct Setup {
    /// The static program.
    pub exec: OwnedFd,
    /// Its standard error.
    pub stderr: OwnedFd,
    /// Its descriptors from 3 on.
    pub table: Vec<OwnedFd>,
    /// Its arguments.
    pub args: Vec<CString>,
    /// Its user and group.
    pub uid: Option<u32>,
    /// RLIMIT_FSIZE.
    pub max_file: u64,
    /// RLIMIT_NOFILE.
    pub max_open: u64,
    /// Whether it dies with the helper.
    pub tied: bool,
}

/// Waits for the gate and becomes the program, or says on `failed` why not.
pub fn run(setup: Setup, gate: OwnedFd, failed: OwnedFd) -> ! {
    let mut go = [0];
    // The helper died before it could note that we exist.
    if std::fs::File::from(gate).read_exact(&mut go).is_err() {
        sys::exit_now(1);
    }
    let (stage, error, failed) = become_program(setup, failed);
    let report = serde_json::to_vec(&(stage, error.raw_os_error().unwrap_or(libc::EIO)));
    let _ = std::fs::File::from(failed).write_all(&report.unwrap_or_default());
    sys::exit_now(1)
}

fn become_program(setup: Setup, failed: OwnedFd) -> (&'static str, io::Error, OwnedFd) {
    // Out of the way of the numbers that the table will take.
    let end = FIRST + setup.table.len() as RawFd;
    let (exec, failed) = match (sys::copy_above(&setup.exec, end), sys::copy_above(&failed, end)) {
        (Ok(exec), Ok(high)) => {
            std::mem::forget(failed);
            (exec, high)
        }
        (Err(e), _) | (_, Err(e)) => return ("copy a descriptor", e, failed),
    };
    let table: io::Result<Vec<OwnedFd>> = setup.table.iter().map(|fd| sys::copy_above(fd, end)).collect();
    let stderr = sys::copy_above(&setup.stderr, end);
    // From here on the low numbers change their meaning: nothing that owns one may be dropped.
    std::mem::forget((setup.table, setup.exec, setup.stderr));
    let result = (|| {
        let (table, stderr) =
            (table.map_err(at("copy a descriptor"))?, stderr.map_err(at("copy a descriptor"))?);
        // SAFETY: this process is about to exec; no owner of these numbers is used again.
        unsafe {
            sys::place_fd(&stderr, 2).map_err(at("place descriptors"))?;
            for (number, fd) in (FIRST..).zip(&table) {
                sys::place_fd(fd, number).map_err(at("place descriptors"))?;
            }
        }
        sys::close_on_exec_from(end).map_err(at("close descriptors"))?;
        restrict(setup.uid, (setup.max_file, setup.max_open), setup.tied, &exec)?;
        if setup.tied && is_alone(&failed).map_err(at("tie the process"))? {
            sys::exit_now(1);
        }
        Ok(())
    })();
    match result {
        Ok(()) => ("execute the VM monitor", sys::exec_fd(&exec, &setup.args), failed),
        Err((stage, error)) => (stage, error, failed),
    }
}

/// Whether the helper has died: it reads the other end of this pipe until we have become the program. Its death before the signal of it
/// was asked for would go unheard, and in a PID namespace of one's own there is no parent to look for.
fn is_alone(failed: &OwnedFd) -> io::Result<bool> {
    wait_readable(failed, PollFlags::empty(), Some(0))
}

fn at(stage: &'static str) -> impl Fn(io::Error) -> (&'static str, io::Error) {
    move |e| (stage, e)
}

fn restrict(
    uid: Option<u32>,
    (max_file, max_open): (u64, u64),
    tied: bool,
    exec: &OwnedFd,
) -> Result<(), (&'static str, io::Error)> {
    rustix::process::setsid().map_err(|e| ("make a session", e.into()))?;
    let signals = || {
        sys::ignore_signal(libc::SIGCHLD, false)?;
        sys::ignore_signal(libc::SIGPIPE, false)?;
        // A file at its limit is an error of one write, not the end of the VM.
        sys::ignore_signal(libc::SIGXFSZ, true)?;
        sys::unblock_signals()
    };
    signals().map_err(at("set signals"))?;
    limit(Resource::Core, 0).map_err(at("set limits"))?;
    limit(Resource::Nofile, max_open).map_err(at("set limits"))?;
    limit(Resource::Fsize, max_file).map_err(at("set limits"))?;
    if let Some(id) = uid {
        for capability in CapabilitySet::all().iter() {
            // EINVAL: this kernel does not know the capability, so nobody has it.
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(e) => return Err(("drop capabilities", e.into())),
            }
        }
        sys::become_ids(id, id).map_err(at("take the VM's own user id"))?;
    }
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: none, permitted: none, inheritable: none },
    )
    .map_err(|e| ("drop capabilities", e.into()))?;
    if tied {
        // After the change of ids, which would reset it.
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| ("tie the process", e.into()))?;
    }
    rustix::thread::set_no_new_privs(true).map_err(|e| ("set no_new_privs", e.into()))?;
    forbid_files(exec).map_err(|e| ("apply Landlock", io::Error::other(e)))
}

fn limit(resource: Resource, value: u64) -> io::Result<()> {
    let now = rustix::process::getrlimit(resource);
    let value = Some(now.maximum.map_or(value, |m| m.min(value)));
    Ok(setrlimit(resource, Rlimit { current: value, maximum: value })?)
}

/// No file can be opened any more except the program itself, no TCP port, no abstract socket or process outside
/// reached; as far as this kernel's Landlock goes.
fn forbid_files(exec: &OwnedFd) -> Result<(), landlock::RulesetError> {
    let abi = ABI::V6;
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .add_rule(PathBeneath::new(exec, AccessFs::Execute | AccessFs::ReadFile))?;
    ruleset.restrict_self().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_whose_helper_is_gone_notices() {
        let (helper, child) = std::io::pipe().unwrap();
        let child = OwnedFd::from(child);
        assert!(!is_alone(&child).unwrap());
        drop(helper);
        assert!(is_alone(&child).unwrap());
    }
}
