//! `vial attach`.

use super::run::finish;
use crate::args::AttachArgs;
use crate::client::{Client, escape};
use crate::error::{Error, Result};
use crate::signals::Signals;
use crate::streams::Session;
use crate::terminal;
use hyper::Method;
use vial_api::{Container, State};

/// Comes to a container that runs; its exit status is the answer.
///
/// # Errors
/// When it does not run.
pub async fn attach(client: &Client, args: AttachArgs) -> Result<i32> {
    let path = format!("/containers/{}", escape(&args.container));
    let container: Container = client.json(Method::GET, &path).await?;
    if container.state != State::Running {
        let words = format!("container {} is not running, so there is nothing to attach to", container.name);
        return Err(Error::Message(words));
    }
    let stdin = container.stdin && !args.no_stdin;
    if container.terminal && stdin && !terminal::is_input() {
        return Err(Error::NotATerminal);
    }
    let signals = Signals::watch()?;
    let session = Session {
        client: client.clone(),
        container: container.id.clone(),
        stdin,
        proxy: true,
        resume: true,
        joins: true,
        terminal: container.terminal.then_some(args.detach_keys),
    };
    let connection = session.join().await?;
    let (end, _) = session.run(connection, signals).await?;
    finish(end, &container.id)
}
