//! `vial pod …`.

use super::life::act;
use super::{each, print_json, say};
use crate::client::{Client, escape};
use crate::error::{Error, Result};
use crate::pod_args::{PodCommand, PodCreateArgs, PodListArgs};
use crate::units::{ago, cell, table};
use hyper::Method;
use vial_api::{CreatePod, Created, ErrorKind, Pod, PodState, State};

/// Does what is asked for with pods.
///
/// # Errors
/// When the daemon can't; failures of one of several are printed.
pub async fn dispatch(client: &Client, command: PodCommand) -> Result<i32> {
    let at = |name: &str, rest: &str| format!("/pods/{}{rest}", escape(name));
    match command {
        PodCommand::Create(args) => create(client, args).await,
        PodCommand::Ls(args) => list(client, &args).await,
        PodCommand::Inspect(names) => {
            let (mut found, mut code) = (Vec::new(), 0);
            for name in &names.pods {
                match client.json::<Pod>(Method::GET, &at(name, "")).await {
                    Ok(pod) => found.push(pod),
                    Err(error) => {
                        crate::output::tell(&error.to_string());
                        code = 1;
                    }
                }
            }
            print_json(&found)?;
            Ok(code)
        }
        PodCommand::Start(names) => Ok(each(&names.pods, async |name| {
            act(client, Method::POST, at(&name, "/start")).await?;
            say(&name)
        })
        .await),
        PodCommand::Stop(args) => Ok(each(&args.names.pods, async |name| {
            act(client, Method::POST, at(&name, &format!("/stop?timeout={}", args.time))).await?;
            say(&name)
        })
        .await),
        PodCommand::Rm(args) => Ok(each(&args.names.pods, async |name| {
            match act(client, Method::DELETE, at(&name, &format!("?force={}", args.force))).await {
                Err(Error::Api(body)) if args.force && body.kind == ErrorKind::NoSuchContainer => Ok(()),
                Err(error) => Err(error),
                Ok(()) => say(&name),
            }
        })
        .await),
    }
}

async fn create(client: &Client, args: PodCreateArgs) -> Result<i32> {
    let PodCreateArgs { name_option, memory, cpus, containers, hostname, no_start, label, network, name } =
        args;
    let request = CreatePod {
        name: name.or(name_option),
        hostname,
        memory,
        milli_cpus: cpus,
        containers,
        network: network.network.unwrap_or_default(),
        ports: network.ports(),
        dns: network.dns,
        add_hosts: network.add_host,
        labels: crate::life_args::labels(&label),
    };
    let made = client.post::<Created>(&format!("/pods?start={}", !no_start), &request).await;
    if let Err(Error::Connection(why)) = &made {
        return Err(Error::Message(format!(
            "the daemon ended while it made the pod ({why}); see whether it is there (vial pod ls), and start it then (vial pod start)"
        )));
    }
    let made = made?;
    super::run::warn(made.warning.as_deref());
    say(&made.id)?;
    Ok(0)
}

async fn list(client: &Client, args: &PodListArgs) -> Result<i32> {
    let pods: Vec<Pod> = client.json(Method::GET, "/pods").await?;
    if args.json {
        print_json(&pods)?;
        return Ok(0);
    }
    if args.quiet {
        for pod in &pods {
            say(&pod.id)?;
        }
        return Ok(0);
    }
    let now = super::now_ms();
    let line = |pod: &Pod| {
        let running = pod.containers.iter().filter(|member| member.state == State::Running).count();
        vec![
            pod.id.chars().take(12).collect(),
            pod.name.clone(),
            status(pod, now),
            format!("{running}/{}", pod.containers.len()),
            cell(&pod.ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "), 40),
            format!("{} ago", ago(now.saturating_sub(pod.created_ms))),
        ]
    };
    let rows: Vec<Vec<String>> = pods.iter().map(line).collect();
    say(&table(&["POD ID", "NAME", "STATUS", "RUNNING", "PORTS", "CREATED"], &rows))?;
    Ok(0)
}

fn status(pod: &Pod, now: u64) -> String {
    match (pod.state, &pod.reason) {
        (PodState::Running, _) => {
            format!("Up {}", pod.started_ms.map_or_else(String::new, |at| ago(now.saturating_sub(at))))
        }
        (PodState::Stopped, Some(reason)) => format!("Stopped: {}", cell(reason, 40)),
        (PodState::Stopped, None) => "Stopped".into(),
        (PodState::Starting, _) => "Starting".into(),
        (PodState::Removing, _) => "Being removed".into(),
    }
}
