//! `vial logs`.

use crate::client::{Client, body, escape};
use crate::error::{Error, Result};
use crate::list_args::LogsArgs;
use crate::when;
use hyper::Method;

/// Prints what a container wrote, each stream to its own.
///
/// # Errors
/// When the daemon can't, or the output can't be written.
pub async fn logs(client: &Client, args: &LogsArgs) -> Result<i32> {
    let mut path = format!(
        "/containers/{}/logs?follow={}&timestamps={}",
        escape(&args.container),
        args.follow,
        args.timestamps
    );
    let now = super::now_ms();
    for (key, text) in [("since_ms", &args.since), ("until_ms", &args.until)] {
        if let Some(text) = text {
            path += &format!("&{key}={}", when::parse(text, now).map_err(Error::Message)?);
        }
    }
    if let Some(lines) = args.tail.0 {
        path += &format!("&tail={lines}");
    }
    let response = client.send(Method::GET, &path, body(""), &[]).await?;
    crate::streams::print_frames(response.into_body()).await?;
    Ok(0)
}
