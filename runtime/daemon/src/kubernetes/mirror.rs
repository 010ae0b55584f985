//! Pods that nobody declared, as they are found here: containers with a VM of their own, and pods made by name.

use super::observe::{self, There};
use super::pods::Node;
use crate::error::Result;
use crate::state::Daemon;
use crate::store::{PodRecord, Record};
use crate::{ending, pods};
use std::time::Duration;
use vial_api::RestartPolicy;
use vial_orchestrator::node::mirror::{Found, dns_label};
use vial_orchestrator::node::observed::{Health, Observed, Sandbox, State};

/// Seconds that a container has to end when its Pod is deleted (`vial stop`).
const GRACE: Duration = Duration::from_secs(10);

/// All of them.
pub fn found(daemon: &Daemon, there: &There) -> Vec<Found> {
    let (pods, records) = &there.others;
    let alone = records.iter().filter(|record| record.pod_name.is_none());
    let shared = pods.iter().map(|pod| {
        let members: Vec<&Record> = records.iter().filter(|record| record.pod == pod.id).collect();
        one(daemon, Some(pod), &members)
    });
    alone.map(|record| one(daemon, None, &[record])).chain(shared).flatten().collect()
}

fn one(daemon: &Daemon, pod: Option<&PodRecord>, members: &[&Record]) -> Option<Found> {
    let first = members.first()?;
    let mut observed =
        Observed { sandbox: pod.map_or_else(|| own_sandbox(first), observe::sandbox), ..Observed::default() };
    for record in members {
        if record.state == vial_api::State::Created {
            // It never ran: there is nothing of it to tell.
            observed.containers.insert(dns_label(&record.name), Vec::new());
            continue;
        }
        let mut attempt = observe::attempt(daemon, record);
        attempt.number = record.restarts;
        if matches!(attempt.state, State::Running { .. }) {
            observed
                .health
                .insert(attempt.id.clone(), Health { started: true, ready: true, unhealthy: None });
        }
        observed.containers.insert(dns_label(&record.name), vec![attempt]);
    }
    let restart = match first.request.restart {
        RestartPolicy::No => "Never",
        RestartPolicy::OnFailure { .. } => "OnFailure",
        RestartPolicy::Always | RestartPolicy::UnlessStopped => "Always",
    };
    Some(Found {
        key: first.pod.to_string(),
        name: pod.map_or(&first.name, |pod| &pod.name).clone(),
        labels: pod.map_or(&first.request.labels, |pod| &pod.request.labels).clone(),
        restart,
        containers: members
            .iter()
            .map(|record| (record.name.clone(), record.image.clone(), record.args.clone()))
            .collect(),
        observed,
    })
}

/// A VM that comes and goes with its only container.
fn own_sandbox(record: &Record) -> Sandbox {
    match record.state {
        vial_api::State::Created => Sandbox::Absent,
        vial_api::State::Starting => Sandbox::Starting,
        vial_api::State::Running | vial_api::State::Paused => Sandbox::Running {
            since: observe::time(record.started_ms.unwrap_or_default()),
            ips: record.network.as_ref().map(observe::addresses).unwrap_or_default(),
        },
        _ => Sandbox::Stopped,
    }
}

/// Ends and removes one, as `vial stop` and `vial rm` do.
///
/// # Errors
/// When something of it can't be removed.
pub async fn remove(node: &Node, key: &str, there: &There) -> Result<()> {
    if let Some(pod) = there.others.0.iter().find(|pod| pod.id.as_str() == key) {
        pods::life::stop(&node.daemon, pod, GRACE).await?;
        return pods::life::remove(&node.daemon, pod, true).await;
    }
    match there.others.1.iter().find(|record| record.pod.as_str() == key) {
        Some(record) => {
            ending::stop(&node.daemon, record, GRACE, ending::Rest::Ends).await?;
            ending::remove(&node.daemon, record, true).await
        }
        None => Ok(()),
    }
}
