//! `vial daemon`, `vial version`.

use super::say;
use crate::args::DaemonAction;
use crate::client::{Client, body};
use crate::error::{Error, Result};
use hyper::Method;
use vial_daemon::detach::DaemonLock;

/// Runs the daemon until it is stopped.
pub fn run(detached: bool) -> i32 {
    vial_daemon::main(detached)
}

/// Acts on the daemon that runs; starts none.
///
/// # Errors
/// When one runs and does not answer.
pub async fn act(client: &Client, action: Option<DaemonAction>) -> Result<i32> {
    let running = client.running().await?;
    match (action, running) {
        (Some(DaemonAction::Status) | None, Some(version)) => {
            say(&format!("running, pid {}, version {}", version.pid, version.version))?;
            say(&format!("data: {}", version.data_dir))?;
            say(&format!("run:  {}", version.run_dir))?;
            say(&format!("log:  {}", client.paths().daemon_log().display()))?;
            Ok(0)
        }
        (Some(DaemonAction::Status) | None, None) => {
            say("not running; the next command that needs one starts it")?;
            Ok(1)
        }
        (Some(DaemonAction::Stop), None) => {
            say("not running")?;
            Ok(0)
        }
        (Some(DaemonAction::Stop), Some(_)) => {
            client.send(Method::POST, "/daemon/stop", body(""), &[]).await?;
            let paths = client.paths().clone();
            let freed = tokio::task::spawn_blocking(move || DaemonLock::wait_free(&paths)).await;
            freed
                .map_err(|error| Error::Message(error.to_string()))?
                .map_err(Error::io("wait for the daemon's end"))?;
            Ok(0)
        }
    }
}

/// Versions of both sides.
///
/// # Errors
/// When a daemon runs and does not answer.
pub async fn version(client: &Client) -> Result<i32> {
    say(&format!("vial {}", env!("CARGO_PKG_VERSION")))?;
    match client.running().await {
        Ok(Some(version)) => say(&format!("daemon {} (pid {})", version.version, version.pid))?,
        Ok(None) => say("daemon: not running")?,
        Err(error) => say(&format!("daemon: {error}"))?,
    }
    Ok(0)
}
