//! The command line of Firecracker's jailer.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// What `--help` says.
pub const HELP: &str = "\
vial-jailer: starts vial-vmm in a jail, as Firecracker's jailer does

Usage: vial-jailer --id ID --exec-file PATH --uid N --gid N [OPTION…] [-- ARGUMENT…]

  --chroot-base-dir DIR     the jail is DIR/<name of the file>/<ID>/root (/srv/jailer); DIR is there already
  --parent-cgroup PATH      the group's parent, relative to the tree (<name of the file>)
  --cgroup FILE=VALUE       written into the group; may be repeated
  --cgroup-version 2        the only one there is
  --netns PATH              network namespace to enter
  --resource-limit fsize=N, --resource-limit no-file=N
                            limits of the process (no-file=2048)
  --daemonize               a session of its own, standard descriptors on /dev/null; the jailer ends at once
  --new-pid-ns              a PID namespace of its own; the jailer ends at once
  -- ARGUMENT…              passed on

The VMM's process id goes to <name of the file>.pid in the jail.
";

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start the VMM.
    Jail(Box<Order>),
    /// Print [`HELP`].
    Help,
    /// Print the version.
    Version,
}

/// A jail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Name of the VM.
    pub id: String,
    /// What is executed.
    pub exec_file: PathBuf,
    /// Name of that file.
    pub exec_name: String,
    /// User that it becomes.
    pub uid: u32,
    /// Group that it becomes.
    pub gid: u32,
    /// Where jails are.
    pub base: PathBuf,
    /// The group's parent.
    pub parent_cgroup: PathBuf,
    /// Whether the parent was named: without any setting the process then goes there itself.
    pub parent_named: bool,
    /// Files of the group and what is written to them.
    pub cgroup: Vec<(String, String)>,
    /// Network namespace to enter.
    pub netns: Option<PathBuf>,
    /// RLIMIT_FSIZE in bytes.
    pub fsize: Option<u64>,
    /// RLIMIT_NOFILE.
    pub no_file: u64,
    /// Own session, no standard descriptors.
    pub daemonize: bool,
    /// Own PID namespace.
    pub new_pid_ns: bool,
    /// What is passed on.
    pub arguments: Vec<OsString>,
}

impl Order {
    /// The jail's root.
    pub fn root(&self) -> PathBuf {
        self.base.join(&self.exec_name).join(&self.id).join("root")
    }
}

/// Arguments that make no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; try --help")]
pub struct BadArguments(String);

fn bad<T>(message: impl Into<String>) -> Result<T, BadArguments> {
    Err(BadArguments(message.into()))
}

/// Firecracker's default for RLIMIT_NOFILE.
const NO_FILE: u64 = 2048;

#[derive(Default)]
struct Given {
    id: Option<String>,
    exec_file: Option<PathBuf>,
    uid: Option<u32>,
    gid: Option<u32>,
    base: Option<PathBuf>,
    parent_cgroup: Option<PathBuf>,
    version: Option<String>,
    cgroup: Vec<(String, String)>,
    netns: Option<PathBuf>,
    fsize: Option<u64>,
    no_file: Option<u64>,
    daemonize: bool,
    new_pid_ns: bool,
}

/// Parses arguments, without the program's name. A pure function: nothing is looked at.
///
/// # Errors
/// What is wrong, and what to give instead.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Action, BadArguments> {
    let mut arguments = arguments.into_iter();
    let mut given = Given::default();
    while let Some(argument) = arguments.next() {
        let name = argument.to_string_lossy().into_owned();
        let value = || -> Result<String, BadArguments> {
            let value = arguments.next().ok_or_else(|| BadArguments(format!("{name} needs a value")))?;
            value.into_string().map_err(|value| BadArguments(format!("{name} {value:?} is not UTF-8")))
        };
        match name.as_str() {
            "--" => break,
            "--help" | "-h" => return Ok(Action::Help),
            "--version" | "-V" => return Ok(Action::Version),
            "--daemonize" => given.daemonize = true,
            "--new-pid-ns" => given.new_pid_ns = true,
            _ => given.take(&name, value)?,
        }
    }
    given.order(arguments.collect()).map(Box::new).map(Action::Jail)
}

impl Given {
    fn take(
        &mut self,
        name: &str,
        value: impl FnOnce() -> Result<String, BadArguments>,
    ) -> Result<(), BadArguments> {
        let twice = match name {
            "--id" => self.id.replace(value()?).is_some(),
            "--exec-file" => self.exec_file.replace(value()?.into()).is_some(),
            "--uid" => self.uid.replace(number(name, &value()?)?).is_some(),
            "--gid" => self.gid.replace(number(name, &value()?)?).is_some(),
            "--chroot-base-dir" => self.base.replace(value()?.into()).is_some(),
            "--parent-cgroup" => self.parent_cgroup.replace(value()?.into()).is_some(),
            "--cgroup-version" => self.version.replace(value()?).is_some(),
            "--netns" => self.netns.replace(value()?.into()).is_some(),
            "--cgroup" => {
                self.cgroup.push(setting(&value()?)?);
                false
            }
            "--resource-limit" => self.limit(&value()?)?,
            "--node" => return bad("--node is gone from Firecracker too: give --cgroup cpuset.mems=N"),
            _ => return bad(format!("unknown argument {name:?}")),
        };
        if twice { bad(format!("{name} is there twice")) } else { Ok(()) }
    }

    fn limit(&mut self, text: &str) -> Result<bool, BadArguments> {
        match text.split_once('=') {
            Some(("fsize", value)) => Ok(self.fsize.replace(number("fsize", value)?).is_some()),
            Some(("no-file", value)) => Ok(self.no_file.replace(number("no-file", value)?).is_some()),
            _ => bad(format!("--resource-limit {text:?}: give fsize=N or no-file=N")),
        }
    }

    fn order(self, arguments: Vec<OsString>) -> Result<Order, BadArguments> {
        let need = |name: &str| BadArguments(format!("{name} is needed"));
        let id = self.id.ok_or_else(|| need("--id"))?;
        if id.is_empty()
            || id.len() > 64
            || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        {
            return bad(format!("--id {id:?} is no name: give 1 to 64 letters, digits and hyphens"));
        }
        let exec_file = self.exec_file.ok_or_else(|| need("--exec-file"))?;
        let name = exec_file.file_name().and_then(|name| name.to_str());
        let exec_name =
            name.ok_or_else(|| BadArguments(format!("--exec-file {exec_file:?} has no name")))?.to_owned();
        match self.version.as_deref() {
            None | Some("2") => {}
            // Firecracker's default, which does nothing without settings.
            Some("1") if self.cgroup.is_empty() => {}
            Some("1") => return bad("--cgroup-version: only 2 is supported; mount the unified hierarchy"),
            Some(other) => return bad(format!("--cgroup-version {other:?} is none: give 2")),
        }
        let parent_named = self.parent_cgroup.is_some();
        let parent_cgroup = self.parent_cgroup.unwrap_or_else(|| exec_name.clone().into());
        if !inner(&parent_cgroup) {
            return bad(format!("--parent-cgroup {parent_cgroup:?} must be relative, without dots"));
        }
        Ok(Order {
            id,
            exec_name,
            exec_file,
            uid: somebody("--uid", self.uid.ok_or_else(|| need("--uid"))?)?,
            gid: somebody("--gid", self.gid.ok_or_else(|| need("--gid"))?)?,
            base: self.base.unwrap_or_else(|| "/srv/jailer".into()),
            parent_cgroup,
            parent_named,
            cgroup: self.cgroup,
            netns: self.netns,
            fsize: self.fsize,
            no_file: self.no_file.unwrap_or(NO_FILE),
            daemonize: self.daemonize,
            new_pid_ns: self.new_pid_ns,
            arguments,
        })
    }
}

/// A user or group that there can be: all ones mean "leave it as it is" to the kernel (setresuid(2), chown(2)).
fn somebody(name: &str, id: u32) -> Result<u32, BadArguments> {
    if id == u32::MAX { bad(format!("{name} {id} is nobody: give 0 to {}", u32::MAX - 1)) } else { Ok(id) }
}

fn inner(path: &Path) -> bool {
    path.components().next().is_some()
        && path.components().all(|component| matches!(component, Component::Normal(_)))
}

/// `cpuset.mems=0`: a file's name with its controller, and what is written there.
fn setting(text: &str) -> Result<(String, String), BadArguments> {
    match text.split_once('=') {
        Some((file, value))
            if file.contains('.')
                && !file.starts_with('.')
                && !file.contains('/')
                && !value.is_empty()
                && !value.contains('=') =>
        {
            Ok((file.to_owned(), value.to_owned()))
        }
        _ => bad(format!("--cgroup {text:?}: give CONTROLLER.FILE=VALUE, as in cpuset.mems=0")),
    }
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, BadArguments> {
    value.parse().map_err(|_| BadArguments(format!("{name} needs a number, and {value:?} is none")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NEEDED: &str = "--id a-1 --exec-file /bin/vial-vmm --uid 10 --gid 20";

    fn parse_text(line: &str) -> Result<Action, BadArguments> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn order(more: &str) -> Order {
        match parse_text(&format!("{NEEDED} {more}")) {
            Ok(Action::Jail(order)) => *order,
            other => panic!("{more}: {other:?}"),
        }
    }

    #[test]
    fn what_firecrackers_go_sdk_passes_is_understood() {
        let order = order(
            "--cgroup cpuset.mems=0 --cgroup cpuset.cpus=0-3 --cgroup-version 2 --chroot-base-dir /jails --netns /run/netns/a \
             --daemonize -- --no-seccomp --api-sock /run/x",
        );
        assert_eq!(order.root(), Path::new("/jails/vial-vmm/a-1/root"));
        assert_eq!(order.cgroup[1], ("cpuset.cpus".into(), "0-3".into()));
        assert_eq!(order.parent_cgroup, Path::new("vial-vmm"));
        assert_eq!((order.no_file, order.daemonize, order.arguments.len()), (2048, true, 3));
    }

    #[test]
    fn mistakes_are_named() {
        for (line, expected) in [
            ("", "--id is needed"),
            ("--id a/b --exec-file /x --uid 1 --gid 1", "is no name"),
            ("--id a --uid 1 --gid 1", "--exec-file is needed"),
            ("--id a --exec-file / --uid 1 --gid 1", "has no name"),
            ("--id a --exec-file /x --uid -1 --gid 1", "--uid needs a number"),
            ("--id a --exec-file /x --uid 4294967295 --gid 1", "--uid 4294967295 is nobody"),
            ("--id a --exec-file /x --uid 1 --gid 4294967295", "--gid 4294967295 is nobody"),
            ("--id a --id b", "--id is there twice"),
            ("--node 0", "cpuset.mems"),
            ("--frob", "unknown argument"),
        ] {
            let message = parse_text(line).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        for (more, expected) in [
            ("--cgroup cpu", "CONTROLLER.FILE=VALUE"),
            ("--cgroup a/../b.c=1", "CONTROLLER.FILE=VALUE"),
            ("--cgroup cpu.max=1 --cgroup-version 1", "only 2"),
            ("--cgroup-version 3", "is none: give 2"),
            ("--parent-cgroup ../x", "must be relative"),
            ("--parent-cgroup /x", "must be relative"),
            ("--resource-limit cpu=1", "fsize=N or no-file=N"),
        ] {
            let message = parse_text(&format!("{NEEDED} {more}")).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    proptest! {
        #[test]
        fn a_jail_never_leaves_its_base(id in "\\PC{0,8}", parent in "\\PC{0,12}", file in "\\PC{0,12}") {
            let words = [
                "--id", &id, "--exec-file", "/x", "--uid", "1", "--gid", "1", "--parent-cgroup", &parent, "--cgroup", &file,
            ];
            if let Ok(Action::Jail(order)) = parse(words.iter().map(OsString::from)) {
                let root = order.root();
                let inside = root.strip_prefix("/srv/jailer").unwrap().to_owned();
                prop_assert!(inner(&inside) && inner(&order.parent_cgroup));
                prop_assert!(order.cgroup.iter().all(|(file, _)| !file.contains('/')));
            }
        }
    }
}
