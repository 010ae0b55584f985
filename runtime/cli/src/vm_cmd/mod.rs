//! `vial vm`: plain microVMs, without the daemon. docs/vm-command.md is the page for people.

mod escape;
mod manage;
mod run;
mod spec;

use clap::{Args, Subcommand};
use std::path::PathBuf;
use vial_vm::exit::ExitReason;
use vial_vm::{EndReason, Error, Registry};

/// `vial vm`
#[derive(Debug, Args)]
pub struct VmArgs {
    /// What to do with it.
    #[command(subcommand)]
    command: VmCommand,
}

#[derive(Debug, Subcommand)]
enum VmCommand {
    /// Boot a kernel with disks of your own, its console on this terminal
    #[command(after_help = RUN_HELP)]
    Run(spec::RunArgs),
    /// List microVMs, those of pods included
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Press a microVM's power button; end it when that does not help
    Stop {
        /// Seconds that the guest has for powering off
        #[arg(short, long, default_value_t = 10, value_name = "SECONDS")]
        time: u32,
        /// Which
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// End a microVM at once
    Kill {
        /// Which
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove what is left of a detached microVM that ended by itself
    Rm {
        /// Which
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Show all that is known of a microVM
    Inspect {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Which
        name: String,
    },
}

const RUN_HELP: &str = "\
On a terminal all keys go to the guest, except:
  Ctrl-A x       end the VM: power button, and after 10 seconds or a second Ctrl-A x without mercy
  Ctrl-A Ctrl-A  send one Ctrl-A to the guest
Without a terminal, Ctrl-C (SIGINT) and SIGTERM do what Ctrl-A x does.

Exit status: 0 the guest powered off or rebooted; 10 its kernel panicked; 11 it crashed (triple fault); 12 it misused
a device; 13 it was stopped and did not power off by itself; 1 the VM process failed; 2 a kernel or disk is unusable;
125 vial itself failed; 137 the VM process was killed.

Examples:
  vial vm run --disk debian.ext4 --memory 1g
  vial vm run --kernel vmlinux --initrd busybox.cpio --append 'quiet'
  vial vm run --disk root.ext4 --disk data.img,ro,id=data --net tap=tap0 -d --name web";

/// Exit status of a failure of `vial vm run` itself, as Docker's.
const RUN_FAILED: i32 = 125;

/// Runs `vial vm …`; gives the exit status. Must be called before this process has a second thread.
pub fn run(args: VmArgs) -> i32 {
    let (result, failure) = match args.command {
        VmCommand::Run(args) => (run::run(args), RUN_FAILED),
        VmCommand::Ls { json } => (manage::list(json), 1),
        VmCommand::Stop { time, names } => (manage::stop(&names, time), 1),
        VmCommand::Kill { names } => (manage::kill(&names), 1),
        VmCommand::Rm { names } => (manage::remove(&names), 1),
        VmCommand::Inspect { json, name } => (manage::inspect(&name, json), 1),
    };
    result.unwrap_or_else(|error| {
        crate::output::tell(&format!("{error}{}", advice(&error)));
        failure
    })
}

/// What to do about a failure that this user can do something about.
fn advice(error: &Error) -> &'static str {
    match error {
        Error::File { source, .. }
            if source.kind() == std::io::ErrorKind::PermissionDenied
                && !rustix::process::geteuid().is_root() =>
        {
            "; run it as root (try sudo), or set VIAL_RUN_DIR to a folder of your own"
        }
        Error::Ended { exit, .. } if exit.reason == EndReason::Exit(ExitReason::InternalError) => SEE_DOCTOR,
        _ => "",
    }
}

/// Where to look when a VM process failed: most often the host's KVM can't do what a guest needs.
pub const SEE_DOCTOR: &str = "; see: vial doctor";

/// Label of VMs that were started with `-d`: they stay listed when they end by themselves.
const DETACHED: &str = "detached";

/// The run folder: `$VIAL_RUN_DIR`, `/run/vial`, or the user's own runtime folder.
fn run_dir() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(dir) = variable("VIAL_RUN_DIR") {
        return dir;
    }
    match variable("XDG_RUNTIME_DIR") {
        Some(dir) if !rustix::process::geteuid().is_root() => dir.join("vial"),
        _ => "/run/vial".into(),
    }
}

fn registry() -> Result<Registry, Error> {
    Registry::open(&run_dir())
}

/// Text on standard output.
fn write(text: &str) -> Result<(), Error> {
    crate::output::write(text).map_err(|source| Error::System { what: "write to standard output", source })
}

/// A runtime of one thread, for commands that wait for one thing.
fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::System { what: "set up this program", source })
}
