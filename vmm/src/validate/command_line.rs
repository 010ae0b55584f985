//! The kernel command line.

use super::ConfigError;
use crate::api::config::VmConfig;
use crate::arch::layout;
use linux_loader::cmdline;
use linux_loader::loader::Cmdline;

/// The kernel command line: `boot_args`, and the root device if a drive is one. It goes before `--`, behind which the
/// kernel passes everything to init.
pub fn command_line(config: &VmConfig) -> Result<String, ConfigError> {
    let failed = |error: cmdline::Error| match error {
        cmdline::Error::InvalidCapacity | cmdline::Error::TooLarge => ConfigError::CommandLine(format!(
            "with what root devices add it is longer than the {} bytes that the kernel reads; shorten it",
            layout::CMDLINE_MAX - 1
        )),
        other => ConfigError::CommandLine(other.to_string()),
    };
    let args = config.boot_source.boot_args.as_deref().unwrap_or("").trim();
    let mut line = match args {
        "" => Cmdline::new(layout::CMDLINE_MAX),
        args => Cmdline::try_from(args, layout::CMDLINE_MAX),
    }
    .map_err(failed)?;
    if let Some(index) = config.drives.iter().position(|drive| drive.is_root_device) {
        let letters = disk_letters(index);
        let drive = &config.drives[index];
        let mode = if drive.is_read_only || !drive.concat.is_empty() { "ro" } else { "rw" };
        let root = match &drive.partuuid {
            Some(id) => format!("PARTUUID={id}"),
            None => format!("/dev/vd{letters}"),
        };
        line.insert_str(format!("root={root} {mode}")).map_err(failed)?;
    }
    if let Some(index) = config.pmem.iter().position(|pmem| pmem.root_device) {
        let mode = if config.pmem[index].read_only { "ro" } else { "rw" };
        line.insert_str(format!("root=/dev/pmem{index} {mode}")).map_err(failed)?;
    }
    let line = line.as_cstring().map_err(failed)?;
    let line = line.into_string().map_err(|error| ConfigError::CommandLine(error.to_string()))?;
    if line.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        Ok(line)
    } else {
        Err(ConfigError::CommandLine("it has characters other than printable ASCII and spaces".into()))
    }
}

/// What follows `vd` in the name that Linux gives to its disk number `index`: `a` to `z`, then `aa` and so on. There are at most
/// [`crate::arch::places::Places::MAX`] disks, so two letters are enough.
pub(super) fn disk_letters(index: usize) -> String {
    let letter = |number: usize| char::from(b'a' + (number % 26) as u8);
    let first = (index / 26).checked_sub(1).map(letter);
    first.into_iter().chain([letter(index)]).collect()
}
