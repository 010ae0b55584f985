//! The command line of `vial-vmm`: Firecracker's options and a few of ours, by hand, since a parser library would be a quarter of the
//! binary.

use crate::api::config::{FileSource, LogLevel, Logger};
use crate::http::MAX_BODY;
use std::ffi::OsString;
use std::fmt;
use std::os::fd::RawFd;
use std::path::PathBuf;

/// What `--help` says.
pub const HELP: &str = "\
vial-vmm: runs one microVM and ends with it

Usage: vial-vmm [--api-sock PATH] [--config-file PATH [--no-api]]
       vial-vmm --config-fd N [--kvm-fd N] [--id NAME]

  --api-sock PATH     serve the HTTP API there; the default, unless --no-api or --config-fd is given,
                      is /run/firecracker.socket
  --api-fd N          the same on an inherited listening socket
  --config-file PATH  configuration document (JSON; docs/vmm.md describes it): the VM starts at once
  --config-fd N       the same, read from inherited descriptor N
  --no-api            no API; needs a configuration
  --kvm-fd N          /dev/kvm as an inherited descriptor; otherwise it is opened
  --id NAME           name of the VM in messages and in derived MAC addresses: 1 to 64 letters, digits, - _ .
  --metadata FILE     JSON document for the metadata service
  --mmds-size-limit N, --http-api-max-payload-size N
                      bytes of that document, and of a request's body (51200)
  --log-path PATH, --level LEVEL, --show-level, --show-log-origin, --module PATH
                      log there, from this level on (Info), with level, with file and line, of these modules
  --metrics-path PATH a line of metrics every minute, and when a request or the end wants one
  --enable-pci        virtio devices are on a PCI bus
  --boot-timer        log when the guest writes 123 to the boot timer
  --no-seccomp        accepted, and without effect: the filters stay on
  --start-time-us N, --start-time-cpu-us N, --parent-cpu-time-us N
                      when the process was started, for the metrics
  --version           version of the program
  --snapshot-version  version of the snapshots that it reads: none yet
  --help              this text

Exit codes: 0 the guest powered off or rebooted, 1 the VMM or KVM failed, 2 bad configuration or arguments,
10 the guest's kernel panicked, 11 it crashed, 12 it broke a device, 13 stopped by signal or request.
";

/// Firecracker's default.
const DEFAULT_SOCKET: &str = "/run/firecracker.socket";

/// Where the configuration comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigSource {
    /// A file.
    Path(PathBuf),
    /// An inherited descriptor.
    Fd(RawFd),
}

impl fmt::Display for ConfigSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{path:?}"),
            Self::Fd(fd) => write!(f, "descriptor {fd}"),
        }
    }
}

/// How to run a VM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Where its configuration is; without one there is an API.
    pub config: Option<ConfigSource>,
    /// Where the API is served.
    pub api: Option<FileSource>,
    /// /dev/kvm, if it is inherited.
    pub kvm_fd: Option<RawFd>,
    /// Its name.
    pub id: String,
    /// Document of the metadata service.
    pub metadata: Option<PathBuf>,
    /// Bytes of a request's body at most.
    pub body_limit: usize,
    /// Bytes of the metadata document at most.
    pub mmds_limit: usize,
    /// What is logged.
    pub logger: Logger,
    /// Where metrics go.
    pub metrics: Option<PathBuf>,
    /// Whether devices are on a PCI bus whatever the configuration says.
    pub pci: bool,
    /// Whether the guest has a boot timer.
    pub boot_timer: bool,
    /// When and at which cost the process was started, if its parent says.
    pub started: Started,
}

impl Options {
    /// Inherited descriptors that are taken over later; no number comes twice.
    pub fn descriptors(&self) -> Vec<(&'static str, RawFd)> {
        let api = match self.api {
            Some(FileSource::Fd { fd }) => Some(fd),
            _ => None,
        };
        let all = [("--kvm-fd", self.kvm_fd), ("--api-fd", api)];
        all.into_iter().filter_map(|(name, fd)| Some((name, fd?))).collect()
    }
}

/// What the parent says of the start, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Started {
    /// CLOCK_MONOTONIC at the start.
    pub wall_us: Option<u64>,
    /// CLOCK_PROCESS_CPUTIME_ID at the start.
    pub cpu_us: Option<u64>,
    /// CPU time of the parent until then.
    pub parent_cpu_us: Option<u64>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Run a VM.
    Run(Box<Options>),
    /// Print [`HELP`].
    Help,
    /// Print the version.
    Version,
    /// Print the version of snapshots.
    SnapshotVersion,
}

/// Arguments that make no sense; the message says what to give instead.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; try --help")]
pub struct BadArguments(String);

fn bad<T>(message: impl Into<String>) -> Result<T, BadArguments> {
    Err(BadArguments(message.into()))
}

/// Parses arguments, without the program's name.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Action, BadArguments> {
    let mut arguments = arguments.into_iter();
    let mut given = Given::default();
    while let Some(argument) = arguments.next() {
        let name = argument.to_string_lossy().into_owned();
        match name.as_str() {
            "--help" | "-h" => return Ok(Action::Help),
            "--version" | "-V" => return Ok(Action::Version),
            "--snapshot-version" => return Ok(Action::SnapshotVersion),
            _ => {}
        }
        let mut value = || arguments.next().ok_or_else(|| BadArguments(format!("{name} needs a value")));
        if given.take(&name, &mut value)? {
            return bad(format!("{name} contradicts an earlier argument"));
        }
    }
    given.options().map(Box::new).map(Action::Run)
}

/// What was given so far.
#[derive(Default)]
struct Given {
    options: Options,
    socket: Option<FileSource>,
    no_api: Option<()>,
    id: Option<String>,
    body_limit: Option<usize>,
    mmds_limit: Option<usize>,
    boot_timer: Option<()>,
    pci: Option<()>,
}

impl Given {
    /// Takes one argument; whether it was there before.
    fn take(
        &mut self,
        name: &str,
        value: &mut dyn FnMut() -> Result<OsString, BadArguments>,
    ) -> Result<bool, BadArguments> {
        let options = &mut self.options;
        Ok(match name {
            "--config-file" => options.config.replace(ConfigSource::Path(value()?.into())).is_some(),
            "--config-fd" => options.config.replace(ConfigSource::Fd(descriptor(name, value()?)?)).is_some(),
            "--kvm-fd" => options.kvm_fd.replace(descriptor(name, value()?)?).is_some(),
            "--api-sock" => match value()? {
                path if path.is_empty() => return bad("--api-sock is empty; give a path"),
                path => self.socket.replace(FileSource::Path(path.into())).is_some(),
            },
            "--api-fd" => self.socket.replace(FileSource::Fd { fd: descriptor(name, value()?)? }).is_some(),
            "--no-api" => self.no_api.replace(()).is_some(),
            "--id" => self.id.replace(text(name, value()?)?).is_some(),
            "--metadata" => options.metadata.replace(value()?.into()).is_some(),
            "--mmds-size-limit" => self.mmds_limit.replace(number(name, value()?)?).is_some(),
            "--http-api-max-payload-size" => self.body_limit.replace(number(name, value()?)?).is_some(),
            "--log-path" => options.logger.log_path.replace(value()?.into()).is_some(),
            "--level" => {
                let level: LogLevel = text(name, value()?)?.parse().map_err(BadArguments)?;
                options.logger.level.replace(level).is_some()
            }
            "--show-level" => options.logger.show_level.replace(true).is_some(),
            "--show-log-origin" => options.logger.show_log_origin.replace(true).is_some(),
            "--module" => options.logger.module.replace(text(name, value()?)?).is_some(),
            "--metrics-path" => options.metrics.replace(value()?.into()).is_some(),
            "--enable-pci" => self.pci.replace(()).is_some(),
            "--boot-timer" => self.boot_timer.replace(()).is_some(),
            "--start-time-us" => options.started.wall_us.replace(number(name, value()?)?).is_some(),
            "--start-time-cpu-us" => options.started.cpu_us.replace(number(name, value()?)?).is_some(),
            "--parent-cpu-time-us" => {
                options.started.parent_cpu_us.replace(number(name, value()?)?).is_some()
            }
            // Firecracker's Go SDK passes it unless told otherwise; a promise to be less careful need not be kept.
            "--no-seccomp" => false,
            "--seccomp-filter" => {
                return bad("--seccomp-filter is not offered: the filters are part of the program");
            }
            "--describe-snapshot" => return bad("--describe-snapshot: this VMM has no snapshots yet"),
            _ => return bad(format!("unknown argument {name:?}")),
        })
    }

    /// Checks that the arguments go together.
    fn options(self) -> Result<Options, BadArguments> {
        let Self { mut options, socket, no_api, id, body_limit, mmds_limit, boot_timer, pci } = self;
        let inherited = matches!(options.config, Some(ConfigSource::Fd(_)));
        let config = if let Some(ConfigSource::Fd(fd)) = options.config { Some(fd) } else { None };
        let api = if let Some(FileSource::Fd { fd }) = socket { Some(fd) } else { None };
        for (one, other, names) in [
            (config, options.kvm_fd, "--config-fd and --kvm-fd"),
            (config, api, "--config-fd and --api-fd"),
            (api, options.kvm_fd, "--api-fd and --kvm-fd"),
        ] {
            if let Some(fd) = one.filter(|_| one == other) {
                return bad(format!("{names} are both {fd}"));
            }
        }
        options.api = match (socket, no_api) {
            (Some(FileSource::Fd { .. }), Some(())) => return bad("--no-api contradicts --api-fd"),
            // Firecracker takes both: there is no API then.
            (Some(FileSource::Path(_)), Some(())) => None,
            (Some(socket), None) => Some(socket),
            (None, Some(())) => None,
            (None, None) if inherited => None,
            (None, None) => Some(FileSource::Path(DEFAULT_SOCKET.into())),
        };
        if options.config.is_none() && options.api.is_none() {
            return bad("--no-api needs a configuration: --config-file or --config-fd");
        }
        if let Some(id) = id {
            options.id = named(id)?;
        }
        options.body_limit = body_limit.unwrap_or(MAX_BODY);
        options.mmds_limit = mmds_limit.unwrap_or(options.body_limit);
        (options.boot_timer, options.pci) = (boot_timer.is_some(), pci.is_some());
        Ok(options)
    }
}

/// An instance's name: Firecracker's letters, digits and hyphens, and those of Vial's own VMs.
fn named(id: String) -> Result<String, BadArguments> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=64).contains(&id.len()) && id.bytes().all(known) {
        return Ok(id);
    }
    bad(format!("--id {id:?} is no name: give 1 to 64 letters, digits, hyphens, underscores and dots"))
}

fn text(name: &str, value: OsString) -> Result<String, BadArguments> {
    value.into_string().map_err(|value| BadArguments(format!("{name} {value:?} is not UTF-8")))
}

fn number<T: std::str::FromStr>(name: &str, value: OsString) -> Result<T, BadArguments> {
    let number = value.to_str().and_then(|text| text.parse().ok());
    number.ok_or_else(|| BadArguments(format!("{name} needs a number, and {value:?} is none")))
}

fn descriptor(name: &str, value: OsString) -> Result<RawFd, BadArguments> {
    let number = value.to_str().and_then(|text| text.parse().ok()).filter(|fd| *fd >= 3);
    number.ok_or_else(|| {
        BadArguments(format!("{name} needs the number of an inherited descriptor, 3 or above"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(line: &str) -> Result<Action, BadArguments> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn options(line: &str) -> Options {
        match parse_text(line) {
            Ok(Action::Run(options)) => *options,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn an_inherited_configuration_needs_and_brings_nothing_else() {
        let expected = Options {
            config: Some(ConfigSource::Fd(5)),
            kvm_fd: Some(6),
            id: "one".into(),
            body_limit: 51200,
            mmds_limit: 51200,
            ..Options::default()
        };
        assert_eq!(options("--config-fd 5 --kvm-fd 6 --id one"), expected);
        assert_eq!(parse_text("--help"), Ok(Action::Help));
    }

    #[test]
    fn the_api_is_where_firecracker_has_it() {
        let socket = |line| options(line).api;
        let default = || Some(FileSource::Path(DEFAULT_SOCKET.into()));
        assert_eq!(socket(""), default());
        assert_eq!(socket("--config-file /x"), default());
        assert_eq!(socket("--config-file /x --no-api"), None);
        assert_eq!(socket("--config-file /x --no-api --api-sock /s"), None);
        assert_eq!(socket("--config-fd 5"), None);
        assert_eq!(socket("--config-fd 5 --api-sock /s"), Some(FileSource::Path("/s".into())));
        assert_eq!(socket("--api-fd 7"), Some(FileSource::Fd { fd: 7 }));
    }

    #[test]
    fn firecrackers_options_are_understood() {
        let given = options(
            "--api-sock /s --id a --level warn --log-path /l --show-level --show-log-origin --module m --metrics-path /m \
             --boot-timer --enable-pci --http-api-max-payload-size 1000 --metadata /d --start-time-us 1 --start-time-cpu-us 2 \
             --parent-cpu-time-us 3",
        );
        assert_eq!((given.body_limit, given.mmds_limit, given.boot_timer && given.pci), (1000, 1000, true));
        assert_eq!(given.logger.level, Some(LogLevel::Warning));
        assert_eq!(given.started.parent_cpu_us, Some(3));
        assert_eq!(options("--mmds-size-limit 7").mmds_limit, 7);
    }

    #[test]
    fn mistakes_are_named() {
        for (line, expected) in [
            ("--no-api", "needs a configuration"),
            ("--no-api --api-fd 5 --config-file /x", "contradicts --api-fd"),
            ("--no-api --api-sock /s", "needs a configuration"),
            ("--id ../x", "is no name"),
            ("--id 0123456789012345678901234567890123456789012345678901234567890123x", "is no name"),
            ("--config-fd", "--config-fd needs a value"),
            ("--config-fd x", "number of an inherited descriptor"),
            ("--config-fd 1", "3 or above"),
            ("--config-fd 4 --kvm-fd 4", "both 4"),
            ("--config-fd 4 --api-fd 4", "both 4"),
            ("--config-fd 4 --config-file /x", "contradicts"),
            ("--level loud", "not a level"),
            ("--mmds-size-limit -1", "needs a number"),
            ("--seccomp-filter x", "not offered"),
            ("--frob", "unknown argument \"--frob\""),
        ] {
            let message = parse_text(line).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        let message = parse(["--api-sock".into(), OsString::new()]).unwrap_err().to_string();
        assert!(message.contains("--api-sock is empty"), "{message}");
    }
}
