//! The last steps before a container's command runs, in the process that becomes the command.

use super::LONGEST_WORD;
use crate::command::{self, Found};
use crate::seccomp::Filter;
use crate::spec::FinalCaps;
use crate::sys;
use agent_protocol::{AgentError, ErrorKind};
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use oci_spec::runtime::{Process, Spec};
use std::collections::HashMap;
use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

/// Installs the system-call filter, gives back the lent capability, and executes the command.
#[derive(Debug, Clone)]
pub struct Launcher {
    /// The filter.
    pub filter: Rc<Filter>,
    /// What is left after the lent capability is gone.
    pub caps: FinalCaps,
    /// Where to say why the command can't run.
    pub verdict: Rc<OwnedFd>,
    /// With a terminal: a byte comes when it has its size and its owner.
    pub go: Option<Rc<OwnedFd>>,
}

impl Launcher {
    /// Says why, and gives the text for libcontainer's own report.
    fn say(&self, mut error: AgentError) -> String {
        error
            .message
            .truncate((0..=LONGEST_WORD / 8).rev().find(|n| error.message.is_char_boundary(*n)).unwrap_or(0));
        if let Ok(word) = serde_json::to_vec(&error) {
            let _ = rustix::io::write(&self.verdict, &word);
        }
        error.message
    }

    fn run(&self, process: &Process) -> Result<Infallible, AgentError> {
        let path = locate(process)?;
        let error = |what: &str, why: &dyn std::fmt::Display| {
            AgentError::new(ErrorKind::Internal, format!("{what}: {why}"))
        };
        let strings = |list: &Option<Vec<String>>| -> Result<Vec<CString>, AgentError> {
            let strings = list.iter().flatten().map(|s| CString::new(s.as_str()));
            strings.collect::<Result<_, _>>().map_err(|_| {
                AgentError::new(
                    ErrorKind::InvalidArgument,
                    "an argument or a variable of the command has a zero byte",
                )
            })
        };
        let (args, env) = (strings(process.args())?, strings(process.env())?);
        if let Some(go) = &self.go
            && rustix::io::read(go, &mut [0]) != Ok(1)
        {
            return Err(error("no terminal", &"the agent gave it up"));
        }
        for program in [&self.filter.allow, &self.filter.unknown] {
            sys::seccomp::install(program)
                .map_err(|e| error("the system-call filter can't be installed", &e))?;
        }
        sys::caps::capset(self.caps.effective, self.caps.permitted, self.caps.inheritable)
            .map_err(|e| error("capabilities can't be given up", &e))?;
        let failure = sys::process::execve(&path, &args, &env);
        let name = path.to_string_lossy();
        Err(match failure.raw_os_error() {
            // The file is there, as was just seen: what is missing is what it needs to run.
            Some(libc::ENOENT) => AgentError::new(
                ErrorKind::CommandNotFound,
                format!("{name}: its interpreter or loader does not exist in the container"),
            ),
            Some(libc::ENOEXEC) => AgentError::new(
                ErrorKind::CommandNotExecutable,
                format!("{name}: not a program for this machine, and not a script that begins with #!"),
            ),
            _ => AgentError::new(ErrorKind::CommandNotExecutable, format!("{name}: {failure}")),
        })
    }
}

/// Finds the command in the container's file system, as the container's user.
fn locate(process: &Process) -> Result<CString, AgentError> {
    let name = process.args().as_ref().and_then(|args| args.first()).map_or("", String::as_str);
    let env = process.env().as_deref().unwrap_or_default();
    let path = command::resolve(name, env, process.cwd(), probe)?;
    // A name with a zero byte was refused above, and no directory of PATH has one that came from a C string.
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| AgentError::new(ErrorKind::CommandNotFound, "the command's path has a zero byte"))
}

fn probe(path: &Path) -> Found {
    let Ok(c_path) = CString::new(path.as_os_str().as_bytes()) else { return Found::Nothing };
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && sys::process::may_execute(&c_path) => Found::Executable,
        Ok(_) => Found::NotExecutable,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Found::NotExecutable,
        Err(_) => Found::Nothing,
    }
}

fn process(spec: &Spec) -> Result<&Process, AgentError> {
    spec.process()
        .as_ref()
        .ok_or_else(|| AgentError::new(ErrorKind::InvalidArgument, "the spec has no process"))
}

impl Executor for Launcher {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        process(spec)
            .and_then(locate)
            .map(drop)
            .map_err(|error| ExecutorValidationError::ArgValidationError(self.say(error)))
    }

    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // The command gets its environment with execve, exactly as the spec has it; this process's own stays out of it.
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        match process(spec).and_then(|process| self.run(process)) {
            Ok(never) => match never {},
            Err(error) => Err(ExecutorError::Other(self.say(error))),
        }
    }
}
