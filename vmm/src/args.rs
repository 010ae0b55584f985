//! The command line of `vial-vmm`: five options, by hand, since a parser library would be half of the binary.

use std::ffi::OsString;
use std::fmt;
use std::os::fd::RawFd;
use std::path::PathBuf;

/// What `--help` says.
pub const HELP: &str = "\
vial-vmm: runs one microVM and ends with it

Usage: vial-vmm --config-file PATH | --config-fd N [--kvm-fd N] [--id NAME]

  --config-file PATH  configuration document (JSON; docs/vmm.md describes it)
  --config-fd N       the same, read from inherited descriptor N
  --kvm-fd N          /dev/kvm as an inherited descriptor; otherwise it is opened
  --id NAME           name of the VM in messages and in derived MAC addresses
  --version           version of the program
  --help              this text

Exit codes: 0 the guest powered off or rebooted, 1 the VMM or KVM failed, 2 bad configuration or arguments,
10 the guest's kernel panicked, 11 it crashed, 12 it broke a device, 13 stopped by signal or request.
";

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where its configuration is.
    pub config: ConfigSource,
    /// /dev/kvm, if it is inherited.
    pub kvm_fd: Option<RawFd>,
    /// Its name.
    pub id: String,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Run a VM.
    Run(Options),
    /// Print [`HELP`].
    Help,
    /// Print the version.
    Version,
}

/// Arguments that make no sense; the message says what to give instead.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; try --help")]
pub struct BadArguments(String);

/// Parses arguments, without the program's name.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Action, BadArguments> {
    let mut arguments = arguments.into_iter();
    let (mut config, mut kvm_fd, mut id) = (None, None, None);
    while let Some(argument) = arguments.next() {
        let name = argument.to_string_lossy().into_owned();
        let mut value = || arguments.next().ok_or_else(|| BadArguments(format!("{name} needs a value")));
        let twice = match name.as_str() {
            "--help" | "-h" => return Ok(Action::Help),
            "--version" | "-V" => return Ok(Action::Version),
            "--config-file" => config.replace(ConfigSource::Path(value()?.into())).is_some(),
            "--config-fd" => config.replace(ConfigSource::Fd(descriptor(&name, value()?)?)).is_some(),
            "--kvm-fd" => kvm_fd.replace(descriptor(&name, value()?)?).is_some(),
            "--id" => id.replace(value()?.to_string_lossy().into_owned()).is_some(),
            _ => return Err(BadArguments(format!("unknown argument {argument:?}"))),
        };
        if twice {
            return Err(BadArguments(format!("{name} contradicts an earlier argument")));
        }
    }
    let config = config
        .ok_or_else(|| BadArguments("a configuration is needed: --config-file or --config-fd".into()))?;
    if let (ConfigSource::Fd(one), Some(other)) = (&config, kvm_fd)
        && *one == other
    {
        return Err(BadArguments(format!("--config-fd and --kvm-fd are both {one}")));
    }
    Ok(Action::Run(Options { config, kvm_fd, id: id.unwrap_or_default() }))
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

    #[test]
    fn a_configuration_is_all_that_is_needed() {
        let options = Options { config: ConfigSource::Fd(5), kvm_fd: Some(6), id: "one".into() };
        assert_eq!(parse_text("--config-fd 5 --kvm-fd 6 --id one"), Ok(Action::Run(options)));
        assert!(matches!(parse_text("--config-file /x"), Ok(Action::Run(_))));
        assert_eq!(parse_text("--help"), Ok(Action::Help));
    }

    #[test]
    fn mistakes_are_named() {
        for (line, expected) in [
            ("", "a configuration is needed"),
            ("--config-fd", "--config-fd needs a value"),
            ("--config-fd x", "number of an inherited descriptor"),
            ("--config-fd 1", "3 or above"),
            ("--config-fd 4 --kvm-fd 4", "both 4"),
            ("--config-fd 4 --config-file /x", "contradicts"),
            ("--frob", "unknown argument \"--frob\""),
        ] {
            let message = parse_text(line).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
