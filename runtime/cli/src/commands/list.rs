//! `vial ps`, `vial logs`.

use super::{print_json, say};
use crate::args::{LogsArgs, PsArgs};
use crate::client::{Client, body, escape};
use crate::error::Result;
use crate::units::{ago, cell, table};
use hyper::Method;
use vial_api::{Container, State};

/// Lists containers.
///
/// # Errors
/// When the daemon can't.
pub async fn ps(client: &Client, args: &PsArgs) -> Result<i32> {
    let containers: Vec<Container> =
        client.json(Method::GET, &format!("/containers?all={}", args.all)).await?;
    if args.json {
        print_json(&containers)?;
        return Ok(0);
    }
    if args.quiet {
        for container in &containers {
            say(short(&container.id))?;
        }
        return Ok(0);
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    // Good for 584 million years.
    let now = now.as_millis() as u64;
    let row = |container: &Container| {
        vec![
            short(&container.id).to_owned(),
            cell(&container.image, 40),
            cell(&format!("\"{}\"", container.command.join(" ")), 24),
            format!("{} ago", ago(now.saturating_sub(container.created_ms))),
            status(container, now),
            container.name.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = containers.iter().map(row).collect();
    say(&table(&["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAME"], &rows))?;
    Ok(0)
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

fn status(container: &Container, now: u64) -> String {
    let since = |time: Option<u64>| ago(now.saturating_sub(time.unwrap_or(now)));
    match container.state {
        State::Created => "Created".into(),
        State::Starting => "Starting".into(),
        State::Dead => "Dead".into(),
        State::Paused => format!("Up {} (Paused)", since(container.started_ms)),
        State::Restarting => {
            let code = container.exit.as_ref().map_or(0, |exit| exit.code);
            format!("Restarting ({code}) {} ago", since(container.finished_ms))
        }
        State::Running => format!("Up {}", since(container.started_ms)),
        State::Removing => "Being removed".into(),
        State::Exited => {
            let code = container.exit.as_ref().map_or(0, |exit| exit.code);
            let oom = container.exit.as_ref().is_some_and(|exit| exit.oom);
            let memory = if oom { ", out of memory" } else { "" };
            format!("Exited ({code}{memory}) {} ago", since(container.finished_ms))
        }
    }
}

/// Prints what a container wrote, each stream to its own.
///
/// # Errors
/// When the daemon can't, or the output can't be written.
pub async fn logs(client: &Client, args: &LogsArgs) -> Result<i32> {
    let path = format!("/containers/{}/logs?follow={}", escape(&args.container), args.follow);
    let response = client.send(Method::GET, &path, body(""), &[]).await?;
    crate::streams::print_frames(response.into_body()).await?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_read_well() {
        let mut container = Container {
            id: "a".repeat(64),
            name: "web".into(),
            pod: "b".repeat(64),
            image: "busybox".into(),
            image_id: "sha256:0".into(),
            command: vec!["sh".into()],
            state: State::Running,
            exit: None,
            created_ms: 0,
            started_ms: Some(1000),
            finished_ms: None,
            memory: 0,
            milli_cpus: 0,
            terminal: false,
            stdin: false,
            auto_remove: false,
            labels: Default::default(),
            restart: Default::default(),
            restart_count: 0,
            vmm_pid: None,
        };
        assert_eq!(status(&container, 6000), "Up 5 seconds");
        container.state = State::Exited;
        container.exit = Some(vial_api::Exit { code: 137, oom: true, ..Default::default() });
        container.finished_ms = Some(5000);
        assert_eq!(status(&container, 6000), "Exited (137, out of memory) 1 second ago");
    }
}
