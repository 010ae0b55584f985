//! `vial wait`, `stop`, `restart`, `pause`, `unpause`, `rename`, `kill`, `rm`.

use super::{each, say};
use crate::args::{KillArgs, RmArgs, StopArgs};
use crate::client::{Client, body, escape};
use crate::error::{Error, Result};
use crate::life_args::RenameArgs;
use hyper::Method;
use vial_api::{ErrorKind, Exit};

/// Asks for something that may be asked for twice.
///
/// # Errors
/// Whatever the daemon says.
pub async fn act(client: &Client, method: Method, path: String) -> Result<()> {
    match client.send(method.clone(), &path, body(""), &[]).await {
        // The daemon was killed meanwhile; asking its successor for the same again is harmless.
        Err(Error::Connection(_)) => client.send(method, &path, body(""), &[]).await.map(drop),
        answer => answer.map(drop),
    }
}

/// Waits for each container's end and prints its exit status.
///
/// # Errors
/// None of its own; each failure is printed.
pub async fn wait(client: &Client, names: &[String]) -> Result<i32> {
    Ok(each(names, async |name| {
        let exit: Exit = client.json(Method::POST, &format!("/containers/{}/wait", escape(&name))).await?;
        say(&exit.code.to_string())
    })
    .await)
}

/// Stops containers.
///
/// # Errors
/// None of its own; each failure is printed.
pub async fn stop(client: &Client, args: &StopArgs) -> Result<i32> {
    Ok(each(&args.names, async |name| {
        let path = format!("/containers/{}/stop?timeout={}", escape(&name), args.time);
        act(client, Method::POST, path).await?;
        say(&name)
    })
    .await)
}

/// Stops containers and starts them again.
///
/// # Errors
/// None of its own; each failure is printed.
pub async fn restart(client: &Client, args: &StopArgs) -> Result<i32> {
    Ok(each(&args.names, async |name| {
        let path = format!("/containers/{}/restart?timeout={}", escape(&name), args.time);
        act(client, Method::POST, path).await?;
        say(&name)
    })
    .await)
}

/// Does to containers what has no options.
///
/// # Errors
/// None of its own; each failure is printed.
pub async fn plain(client: &Client, names: &[String], what: &str) -> Result<i32> {
    Ok(each(names, async |name| {
        act(client, Method::POST, format!("/containers/{}/{what}", escape(&name))).await?;
        say(&name)
    })
    .await)
}

/// Gives a container another name.
///
/// # Errors
/// When the daemon can't.
pub async fn rename(client: &Client, args: &RenameArgs) -> Result<i32> {
    let path = format!("/containers/{}/rename?name={}", escape(&args.container), escape(&args.name));
    client.send(Method::POST, &path, body(""), &[]).await?;
    Ok(0)
}

/// Sends containers a signal.
///
/// # Errors
/// None of its own; each failure is printed.
pub async fn kill(client: &Client, args: &KillArgs) -> Result<i32> {
    Ok(each(&args.names, async |name| {
        let path = format!("/containers/{}/kill?signal={}", escape(&name), escape(&args.signal));
        act(client, Method::POST, path).await?;
        say(&name)
    })
    .await)
}

/// Removes containers.
///
/// # Errors
/// None of its own; each failure is printed.
pub async fn rm(client: &Client, args: &RmArgs) -> Result<i32> {
    Ok(each(&args.names, async |name| {
        let path = format!("/containers/{}?force={}", escape(&name), args.force);
        match act(client, Method::DELETE, path).await {
            Err(Error::Api(body)) if args.force && body.kind == ErrorKind::NoSuchContainer => Ok(()),
            Err(error) => Err(error),
            Ok(()) => say(&name),
        }
    })
    .await)
}
