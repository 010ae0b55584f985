//! Steps of a Pod's life, done with what this daemon has for everybody's pods.

use super::ask;
use super::observe::{self, ATTEMPT, CONTAINER, FAILURES, NAMESPACE, POD, RUN, UID};
use super::pods::Node;
use super::{facts, image};
use crate::ending::{self, Rest};
use crate::error::{ApiError, Result};
use crate::live::Phase;
use crate::store::{PodRecord, Record};
use crate::{creation, pods};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::spawn_blocking;
use vial_api::{
    CreateContainer, CreatePod, ErrorKind, NetworkMode, Port, Protocol, Security, TerminalSize, VolumeMount,
};
use vial_orchestrator::chrono::{DateTime, TimeDelta, Utc};
use vial_orchestrator::controllers::{Ref, kind};
use vial_orchestrator::node::life::Step;
use vial_orchestrator::node::probe::{Handler, Outcome};
use vial_orchestrator::node::request::{self, Sources, Wanted};
use vial_orchestrator::node::volumes::{self, Mount, Volume};
use vial_orchestrator::node::{Part, parts, schedule};
use vial_orchestrator::object;
use vial_orchestrator::store::{Key, Stored};
use vial_sandbox::ContainerId;

/// How long all volumes of a container may take to be brought into its VM; each piece has a limit of its own, of which there may be thousands.
const MOUNT: Duration = Duration::from_secs(300);

/// Why a container is not started: the word at first, the word later, and the sentence.
pub struct Unmet {
    pub first: &'static str,
    pub later: &'static str,
    pub event: &'static str,
    pub message: String,
}

impl Unmet {
    fn always(word: &'static str, event: &'static str, message: impl ToString) -> Self {
        Self { first: word, later: word, event, message: message.to_string() }
    }
}

/// Does one. What did not work is told, and tried again when it is decided again.
pub async fn take(node: &Arc<Node>, pod: &Stored, step: &Step) {
    let uid = object::uid(&pod.object);
    let done = match step {
        Step::Start { container, number, failures, run } => {
            match start(node, pod, container, (*number, *failures), *run).await {
                Ok(()) => node.waits_no_more(uid, container),
                // It was told to go meanwhile, which is why.
                Err(_) if *node.leaving(uid).borrow() => {}
                Err(unmet) => {
                    node.tell(pod, container, (true, unmet.event, unmet.message.clone()));
                    node.wait(uid, container, unmet.first, unmet.later, unmet.message);
                }
            }
            Ok(())
        }
        Step::Stop { container, id, grace, why } => stop(node, pod, (container, id), *grace, why).await,
        Step::Forget { id, .. } => forget(node, id).await,
        Step::StopSandbox => match sandbox_of(node, uid).await {
            Ok(Some(record)) => pods::life::stop(&node.daemon, &record, Duration::ZERO).await,
            other => other.map(drop),
        },
        Step::Remove => remove(node, uid).await,
        Step::Finalize => finalize(node, pod).await,
    };
    if let Err(error) = done {
        tracing::error!(pod = object::name(&pod.object), %error, ?step, "a step of a pod's life does not work");
        // It is decided again at once; not faster than this.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The row of a Pod's sandbox.
async fn sandbox_of(node: &Node, uid: &str) -> Result<Option<PodRecord>> {
    let (daemon, uid) = (node.daemon.clone(), uid.to_owned());
    let all = spawn_blocking(move || daemon.store.pods()).await??;
    Ok(all.into_iter().find(|pod| pod.request.labels.get(UID) == Some(&uid)))
}

async fn record_of(node: &Node, id: &str) -> Result<Option<Record>> {
    let Some(id) = ContainerId::parse(id) else { return Ok(None) };
    let daemon = node.daemon.clone();
    Ok(spawn_blocking(move || daemon.store.get(&id)).await??)
}

async fn start(
    node: &Node,
    pod: &Stored,
    container: &str,
    attempt: (u32, u32),
    run: Option<DateTime<Utc>>,
) -> Result<(), Unmet> {
    let uid = object::uid(&pod.object);
    let mut leaving = node.leaving(uid);
    let all = parts(&pod.object);
    let Some(part) = all.iter().find(|part| part.name == container) else { return Ok(()) };
    let prepared = async {
        // Both take time, and neither needs the other.
        let (sandbox, ()) = tokio::try_join!(sandbox(node, pod), image::ensure(node, pod, part))?;
        Ok::<_, Unmet>(sandbox)
    };
    let sandbox = tokio::select! {
        sandbox = prepared => sandbox?,
        _ = leaving.wait_for(|leaving| *leaving) => return Ok(()),
    };
    if run.is_some() && run != sandbox.started_ms.map(observe::time) {
        // Its VM has ended meanwhile, and this is the next one: init containers come first there.
        return Ok(());
    }
    // The VM may have to be booted again for it, and what it is brought is up to a guest that may be slow by intent.
    let wanted = tokio::select! {
        wanted = wanted(node, pod, part, &sandbox) => wanted?,
        _ = leaving.wait_for(|leaving| *leaving) => return Ok(()),
    };
    if *leaving.borrow() {
        return Ok(());
    }
    let request = container_request(pod, part, &sandbox, attempt, wanted);
    let (record, live, _) = creation::create_and_start(&node.daemon, request)
        .await
        .map_err(|error| Unmet::always("CreateContainerError", "Failed", format!("Error: {error}")))?;
    node.tell(pod, container, (false, "Created", format!("Created container: {container}")));
    match live.started().await {
        // It has ended so, which is seen and dealt with as any other end.
        Phase::Failed(error) => node.tell(pod, container, (true, "Failed", format!("Error: {error}"))),
        _ => {
            node.tell(pod, container, (false, "Started", format!("Started container {container}")));
            // Who is told to go is not waited for.
            tokio::select! {
                () = hook(node, pod, part, &record) => {}
                _ = leaving.wait_for(|leaving| *leaving) => {}
            }
        }
    }
    Ok(())
}

/// Does what is to come after a start; a container whose hook fails is ended.
async fn hook(node: &Node, pod: &Stored, part: &Part<'_>, record: &Record) {
    let Some(value) = object::at(part.spec, &["lifecycle", "postStart"]) else { return };
    let outcome = match Handler::of(part, value) {
        Ok(handler) => ask::handler(node, pod, record, &handler, ask::HOOK).await,
        Err(why) => Outcome::Failure(why),
    };
    if let Outcome::Failure(why) | Outcome::Unknown(why) = outcome {
        node.tell(pod, part.name, (true, "FailedPostStartHook", format!("PostStartHook failed: {why}")));
        let grace = TimeDelta::seconds(vial_orchestrator::node::life::grace_s(&pod.object));
        let grace = grace.to_std().unwrap_or_default();
        if let Err(error) = ending::stop(&node.daemon, record, grace, Rest::GoesOn).await {
            tracing::warn!(container = record.name, %error, "a container whose hook failed does not stop");
        }
    }
}

/// A Pod's sandbox, made and started if need be. Its row with the Pod's uid comes before all else.
async fn sandbox(node: &Node, pod: &Stored) -> Result<PodRecord, Unmet> {
    let uid = object::uid(&pod.object);
    let failed = |error: ApiError| {
        Unmet::always(
            "ContainerCreating",
            "FailedCreatePodSandBox",
            format!("Failed to create pod sandbox: {error}"),
        )
    };
    let making = node.making(uid);
    let _only = making.lock().await;
    let record = match sandbox_of(node, uid).await.map_err(failed)? {
        Some(record) => record,
        None => pods::make(&node.daemon, sandbox_request(pod)).await.map_err(failed)?,
    };
    let was_up = node.daemon.pod(&record.id).is_some();
    let (live, _) = pods::life::sandbox(&node.daemon, &record.id).await.map_err(failed)?;
    if let (false, Some(took)) = (was_up, live.boot()) {
        node.note_boot(pod, took);
    }
    // With its network, which is given at the start.
    sandbox_of(node, uid)
        .await
        .map_err(failed)?
        .ok_or_else(|| failed(ApiError::new(ErrorKind::Conflict, "it was just removed")))
}

fn labels(pod: &Stored) -> BTreeMap<String, String> {
    let value = &pod.object;
    let own = [(UID, object::uid(value)), (POD, object::name(value)), (NAMESPACE, object::namespace(value))];
    own.map(|(key, text)| (key.to_owned(), text.to_owned())).into()
}

/// A name for `vial ps` and `vial pod ls`: its parts, and enough of the uid to be nobody else's.
fn name(pod: &Stored, rest: &str) -> String {
    const MOST: usize = 64;
    let uid: String = object::uid(&pod.object).chars().filter(|c| *c != '-').take(8).collect();
    let end = format!(".{uid}{rest}");
    let begin = match rest {
        "" => format!("{}.{}", object::namespace(&pod.object), object::name(&pod.object)),
        _ => object::name(&pod.object).to_owned(),
    };
    let room = MOST.saturating_sub(end.len()).max(1);
    format!("{}{end}", begin.chars().take(room).collect::<String>()).chars().take(MOST).collect()
}

/// The same for a container. What names have in common at their beginning is told apart by the place in the pod: no container's name has a dot.
fn container_name(pod: &Stored, part: &Part<'_>, number: u32) -> String {
    const MOST: usize = 30;
    if part.name.len() <= MOST {
        return name(pod, &format!(".{}.{number}", part.name));
    }
    let place = parts(&pod.object).iter().position(|other| other.name == part.name).unwrap_or_default();
    name(pod, &format!(".{}.{place}.{number}", part.name.chars().take(MOST).collect::<String>()))
}

fn sandbox_request(pod: &Stored) -> CreatePod {
    let (value, size) = (&pod.object, schedule::size(&pod.object));
    let texts = |path: &[&str]| -> Vec<String> {
        object::list(value, path).iter().filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let ports = parts(value).into_iter().flat_map(|part| object::list(part.spec, &["ports"]));
    let port = |port: &serde_json::Value| {
        let number =
            |field: &str| object::number(port, &[field]).and_then(|number| u16::try_from(number).ok());
        let protocol = if object::text(port, &["protocol"]) == "UDP" { Protocol::Udp } else { Protocol::Tcp };
        let ip = match object::text(port, &["hostIP"]) {
            "" => None,
            // From before it was checked. Not all addresses: somebody wanted fewer.
            text => Some(text.parse().unwrap_or(Ipv4Addr::LOCALHOST.into())),
        };
        Some(Port {
            ip,
            host: number("hostPort").filter(|port| *port > 0)?,
            container: number("containerPort")?,
            protocol,
        })
    };
    let hosts = object::list(value, &["spec", "hostAliases"]).iter().flat_map(|alias| {
        let ip = object::text(alias, &["ip"]);
        object::list(alias, &["hostnames"])
            .iter()
            .filter_map(move |name| Some(format!("{}:{ip}", name.as_str()?)))
    });
    let hostname = match object::text(value, &["spec", "hostname"]) {
        "" => object::name(value),
        hostname => hostname,
    };
    CreatePod {
        name: Some(name(pod, "")),
        hostname: Some(hostname.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()),
        memory: Some(size.memory),
        milli_cpus: Some(size.milli_cpus),
        containers: Some(size.slots),
        network: NetworkMode::Default,
        ports: ports.filter_map(port).collect(),
        dns: texts(&["spec", "dnsConfig", "nameservers"])
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect(),
        add_hosts: hosts.collect(),
        labels: labels(pod),
    }
}

/// What the container is to be, with what it draws from.
async fn wanted(
    node: &Node,
    pod: &Stored,
    part: &Part<'_>,
    sandbox: &PodRecord,
) -> Result<(Wanted, Option<String>, Vec<Mount>), Unmet> {
    let store = node.engine.store();
    let namespace = object::namespace(&pod.object);
    let facts = facts::of(&node.daemon, &node.name);
    let get = |plural: &str, name: &str| store.get(&Key::new(kind(plural), namespace, name));
    let ips = sandbox.network.as_ref().map(observe::addresses).unwrap_or_default();
    let sources = Sources {
        pod: &pod.object,
        get: &get,
        host_ip: &facts.address,
        pod_ips: ips.iter().map(ToString::to_string).collect(),
        cpus: facts.cpus,
        memory: facts.allocatable_memory(),
    };
    let failed = |why: String| Unmet::always("CreateContainerConfigError", "Failed", format!("Error: {why}"));
    let wanted = request::container(part, &sources).map_err(failed)?;
    let (volumes, mounts) = volumes::of(part, &sources).map_err(failed)?;
    let images = image::user(node, object::text(part.spec, &["image"])).await.map_err(failed)?;
    let identity = wanted.identity(&images).map_err(failed)?;
    bring(node, sandbox, volumes)
        .await
        .map_err(|why| Unmet::always("ContainerCreating", "FailedMount", why))?;
    Ok((wanted, identity, mounts))
}

/// Has volumes in the guest. Again at each start: a VM that was started anew has none, and files may have changed since.
async fn bring(node: &Node, sandbox: &PodRecord, volumes: Vec<Volume>) -> Result<(), String> {
    if volumes.is_empty() {
        return Ok(());
    }
    let file =
        |file: volumes::File| vial_sandbox::File { path: file.path, mode: file.mode, bytes: file.bytes };
    let volume = |volume: Volume| {
        let files = volume.files.map(|files| files.into_iter().map(file).collect());
        vial_sandbox::Volume { name: volume.name, size: volume.size, files, group: volume.group }
    };
    let volumes: Vec<_> = volumes.into_iter().map(volume).collect();
    let (_, running) =
        pods::life::sandbox(&node.daemon, &sandbox.id).await.map_err(|error| error.to_string())?;
    match tokio::time::timeout(MOUNT, running.put_volumes(&volumes)).await {
        Ok(brought) => brought.map_err(|error| format!("volumes can't be brought into the VM: {error}")),
        Err(_) => {
            Err(format!("volumes can't be brought into the VM within {MOUNT:?}: its agent is very slow"))
        }
    }
}

fn container_request(
    pod: &Stored,
    part: &Part<'_>,
    sandbox: &PodRecord,
    (number, failures): (u32, u32),
    (wanted, identity, mounts): (Wanted, Option<String>, Vec<Mount>),
) -> CreateContainer {
    let mut labels = labels(pod);
    for (key, text) in
        [(CONTAINER, part.name.to_owned()), (ATTEMPT, number.to_string()), (FAILURES, failures.to_string())]
    {
        labels.insert(key.to_owned(), text);
    }
    labels.extend(sandbox.started_ms.map(|run| (RUN.to_owned(), run.to_string())));
    CreateContainer {
        image: object::text(part.spec, &["image"]).to_owned(),
        name: Some(container_name(pod, part, number)),
        pod: Some(sandbox.id.to_string()),
        command: wanted.args,
        entrypoint: wanted.command,
        env: wanted.env,
        workdir: wanted.workdir,
        user: identity,
        memory: wanted.memory,
        milli_cpus: wanted.milli_cpus,
        stdin: wanted.stdin,
        terminal: wanted.terminal.then_some(TerminalSize { cols: 0, rows: 0 }),
        labels,
        security: Security {
            read_only: wanted.read_only,
            no_new_privileges: wanted.no_new_privileges,
            cap_add: wanted.cap_add,
            cap_drop: wanted.cap_drop,
            groups: wanted.groups,
        },
        mounts: mounts.into_iter().map(mounted).collect(),
        ..CreateContainer::default()
    }
}

fn mounted(mount: Mount) -> VolumeMount {
    VolumeMount { source: mount.source, path: mount.path, read_only: mount.read_only }
}

async fn stop(
    node: &Node,
    pod: &Stored,
    (container, id): (&str, &str),
    grace: TimeDelta,
    why: &str,
) -> Result<()> {
    let Some(record) = record_of(node, id).await? else { return Ok(()) };
    node.tell(pod, container, (false, "Killing", format!("Stopping container {container}: {why}")));
    let begun = tokio::time::Instant::now();
    let grace = grace.to_std().unwrap_or_default();
    let all = parts(&pod.object);
    let hook = all.iter().find(|part| part.name == container).and_then(|part| {
        let value = object::at(part.spec, &["lifecycle", "preStop"])?;
        Some(Handler::of(part, value))
    });
    if let Some(hook) = hook.filter(|_| record.state == vial_api::State::Running) {
        let outcome = match hook {
            Ok(handler) => ask::handler(node, pod, &record, &handler, grace).await,
            Err(why) => Outcome::Failure(why),
        };
        if let Outcome::Failure(why) | Outcome::Unknown(why) = outcome {
            node.tell(pod, container, (true, "FailedPreStopHook", format!("PreStopHook failed: {why}")));
        }
    }
    // A hook that took all of it leaves two seconds (kubelet's `minimumGracePeriodInSeconds`).
    let left = grace.saturating_sub(begun.elapsed()).max(Duration::from_secs(2).min(grace));
    let rest = if object::is_deleted(&pod.object) { Rest::Ends } else { Rest::GoesOn };
    ending::stop(&node.daemon, &record, left, rest).await
}

/// Ends an attempt that is being stopped already, in less time than it was given.
pub async fn hurry(node: &Node, id: &str, grace: TimeDelta) -> Result<()> {
    match record_of(node, id).await? {
        Some(record) => {
            ending::stop(&node.daemon, &record, grace.to_std().unwrap_or_default(), Rest::Ends).await
        }
        None => Ok(()),
    }
}

async fn forget(node: &Node, id: &str) -> Result<()> {
    match record_of(node, id).await? {
        Some(record) => ending::remove(&node.daemon, &record, false).await,
        None => Ok(()),
    }
}

async fn remove(node: &Node, uid: &str) -> Result<()> {
    let making = node.making(uid);
    let _only = making.lock().await;
    match sandbox_of(node, uid).await? {
        Some(record) => pods::life::remove(&node.daemon, &record, true).await,
        None => Ok(()),
    }
}

async fn finalize(node: &Arc<Node>, pod: &Stored) -> Result<()> {
    let (node, about) = (node.clone(), Ref::to(kind("pods"), pod));
    spawn_blocking(move || node.let_go(&about))
        .await?
        .map_err(|error| ApiError::new(ErrorKind::Internal, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::HashSet;

    #[test]
    fn containers_with_names_that_begin_alike_have_names_of_their_own() {
        let names: Vec<String> = (0..14).map(|n| format!("{}-{n}", "c".repeat(60))).collect();
        let containers: Vec<_> = names.iter().map(|name| json!({"name": name})).collect();
        let metadata = json!({"name": "p".repeat(253), "namespace": "default", "uid": "12345678-9abc"});
        let object = json!({"metadata": metadata, "spec": {"containers": containers}});
        let pod = Stored { object, version: 1 };
        let all = parts(&pod.object);
        let made: HashSet<String> = all.iter().map(|part| container_name(&pod, part, u32::MAX)).collect();
        assert_eq!(made.len(), names.len());
        assert!(made.iter().all(|name| name.len() <= 64 && name.contains(".12345678.")), "{made:?}");
    }
}
