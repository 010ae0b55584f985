//! Commands around the starts that are measured: what prepares them, and what clears away.

use super::running::{Running, bounded, wait, written};
use super::{Failed, Stop};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long a command that clears away has.
const CLEANING: Duration = Duration::from_secs(60);
/// How long a rival's helper command has in its preparation.
pub const HELPING: Duration = Duration::from_secs(300);

/// Runs a helper command of a contender's set-up and gives its output.
///
/// # Errors
/// In words: which command, and what it said.
pub fn output_of(command: &[OsString], stop: Stop<'_>) -> Result<String, String> {
    output_within(command, HELPING, stop)
}

/// The same for what may take as long as it likes: a pull, the copy of a large image.
///
/// # Errors
/// In words.
pub fn patient_output_of(command: &[OsString], stop: Stop<'_>) -> Result<String, String> {
    output_within(command, Duration::from_secs(24 * 3600), stop)
}

fn output_within(command: &[OsString], time: Duration, stop: Stop<'_>) -> Result<String, String> {
    let line = || command.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    run(command, time, stop).map_err(|error| format!("{}: {error}", line()))
}

fn run(command: &[OsString], time: Duration, stop: Stop<'_>) -> Result<String, Failed> {
    // Not a pipe: what stays in the background keeps this open, and nobody would read it.
    let out = bounded()?;
    let (mut running, began) = Running::spawn(command, out.try_clone()?.into())?;
    running.pass(&mut Vec::new(), began + time, time, stop, |_| false)?;
    let status = running.child.wait()?;
    if !status.success() {
        return Err(Failed::Status(status, running.said()));
    }
    let mut text = vec![0; usize::try_from(written(&out)).unwrap_or(0)];
    out.read_exact_at(&mut text, 0)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Runs a command whose failure is nobody's loss: most often there is nothing to be removed. It is not ended by a stop, since it clears away, but
/// by its time.
pub fn quietly(command: &[OsString]) {
    let Some((program, args)) = command.split_first() else { return };
    let mut quiet = Command::new(program);
    quiet.args(args).process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = quiet.spawn() else { return };
    let pid = Pid::from_child(&child);
    let ended = pidfd_open(pid, PidfdFlags::empty())
        .is_ok_and(|fd| wait(&[fd.as_fd()], Some(CLEANING)).is_ok_and(|ready| ready[0]));
    if !ended {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let _ = child.wait();
}
