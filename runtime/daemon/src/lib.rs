//! The daemon: wires images, VMs and pods, serves the API, and recovers after a crash. `docs/daemon.md` tells the story.
//!
//! It must never know how a VM or an image works inside, and nothing of terminals: it decides, remembers and passes on. Killing it never
//! stops a pod; the next one finds them all again.
//!
//! `unsafe` is in [`detach`], for one system call.

mod body;
mod containers;
mod course;
mod creation;
pub mod detach;
mod disk_use;
mod ending;
mod error;
mod home;
mod images;
mod inspect;
mod kubernetes;
mod life;
mod limits;
mod live;
mod names;
mod network;
mod paths;
mod pods;
pub mod recovery;
mod registry;
mod reserve;
mod restart;
mod save;
mod server;
mod state;
mod store;
mod streams;
mod usage;
mod whole;

pub use error::ApiError;
pub use paths::Paths;

use vial_vm::Launcher;

/// The arguments with which a program calls [`launcher`]: the daemon executes its own file so when its launcher was killed.
pub const LAUNCHER: &[&str] = &["launcher"];

/// Lives as a daemon's launcher. Must be called before this process has made a thread.
pub fn launcher() -> ! {
    Launcher::serve()
}

/// The daemon as a process: its exit status. Must be called before this process has made a thread.
///
/// `detached`: it was started by a command line, which waits on standard output for a word.
pub fn main(detached: bool) -> i32 {
    let paths = Paths::from_env();
    let ended = start(paths, detached);
    if let Err(error) = &ended {
        if detached {
            // The command line tells its user; the log keeps it too.
            let _ = detach::say_failed(&error.to_string());
        }
        eprintln!("vial daemon: {error}");
    }
    i32::from(ended.is_err())
}

fn start(paths: Paths, detached: bool) -> Result<(), ApiError> {
    if detached {
        detach::leave_caller()?;
    }
    // First of all: it forks, and that is safe in a process of one thread only.
    let launcher = Launcher::start_replaceable(LAUNCHER)?;
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("VIAL_LOG").unwrap_or_else(|_| "info".into()),
        )
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    // After the launcher was forked, which has no use for it.
    limits::raise_descriptors();
    // Each thread's own arena keeps what it once took: large objects, written by one thread after the other, took more than twice as much.
    vial_vm::share_arena();
    let isolation = launcher.isolation();
    match &isolation.missing {
        None => tracing::info!(pid = launcher.helper_pid(), ?isolation, "the launcher is ready"),
        Some(missing) => tracing::warn!(
            pid = launcher.helper_pid(),
            ?isolation,
            "VM processes will be less isolated than they could be: {missing}"
        ),
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ready = move || if detached { detach::say_ready() } else { Ok(()) };
    let ended = runtime.block_on(server::run(paths, launcher, detached, ready));
    // Nothing waits for what still runs: pods go on without it.
    runtime.shutdown_background();
    ended
}
