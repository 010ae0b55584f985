//! A container comes into being: checked, planned, named, noted. Whether it is started at once is its maker's choice.

use crate::error::{ApiError, Result};
use crate::life;
use crate::live::Live;
use crate::names;
use crate::paths::named;
use crate::pods;
use crate::state::Shared;
use crate::store::{Record, StoreError};
use std::sync::Arc;
use vial_api::{CreateContainer, ErrorKind, NetworkMode, State};
use vial_sandbox::log::{OutputLog, Position};
use vial_sandbox::timing::Timing;
use vial_sandbox::{ContainerId, PodId, now_ms, sizing, spec, upper};

/// Processes and threads of a container when nobody says: enough for what serves, too few to fill a guest, or the container's memory (bytes) with
/// what the kernel keeps of each, some 100 KiB.
fn default_pids(memory: u64) -> u32 {
    // In range of u32 by the clamp.
    (memory / (128 << 10)).clamp(64, 4096) as u32
}

fn invalid(why: impl Into<String>) -> ApiError {
    ApiError::new(ErrorKind::InvalidArgument, why)
}

/// What can be said about a request without looking at anything else.
fn check(request: &CreateContainer) -> Result<()> {
    if let Some(name) = &request.name {
        names::check(name).map_err(invalid)?;
    }
    if request.auto_remove && !request.restart.is_no() {
        return Err(invalid(
            "a container that is removed at its end cannot be restarted: --rm or --restart, not both",
        ));
    }
    let disk = request.disk.unwrap_or(upper::DEFAULT_SIZE);
    if !(upper::MIN_SIZE..=upper::MAX_SIZE).contains(&disk) {
        return Err(upper::UpperError::Size(disk).into());
    }
    if request.pod.is_some() {
        check_shared(request)?;
    }
    crate::network::check(request.into())?;
    request.log.check().map_err(|why| invalid(format!("--log-opt {why}")))
}

/// What a pod's containers share can't be asked for by one of them.
fn check_shared(request: &CreateContainer) -> Result<()> {
    let asked = [
        (request.network != NetworkMode::Default, "--network"),
        (!request.ports.is_empty(), "-p"),
        (!request.dns.is_empty(), "--dns"),
        (!request.add_hosts.is_empty(), "--add-host"),
        (request.hostname.is_some(), "--hostname"),
    ];
    match asked.into_iter().find(|(asked, _)| *asked) {
        Some((_, option)) => Err(invalid(format!(
            "{option} is the whole pod's, which its containers share: give it to vial pod create instead"
        ))),
        None => Ok(()),
    }
}

/// A record of what was asked for, without a name yet, and the image that it is of.
async fn plan(
    daemon: &Shared,
    request: CreateContainer,
    timing: &mut Timing,
) -> Result<(Record, vial_image::Image)> {
    if *daemon.stopping.borrow() {
        return Err(ApiError::new(ErrorKind::ShuttingDown, "the daemon is just ending; try again"));
    }
    check(&request)?;
    let image = crate::images::resolve(daemon, &request.image).await?;
    timing.reached("image resolved");
    let joined = pods::api::joined(daemon, request.pod.as_deref())?;
    let id = ContainerId::random()?;
    let wanted = request.clone();
    // In a pod that is shared, what that has.
    let (memory, milli_cpus) = match &joined {
        // An eighth stays for the others, so that one that takes all it can get meets its own limit before all meet the pod's.
        Some(pod) => (pod.memory() - pod.memory() / 8, pod.milli_cpus()),
        None => (sizing::DEFAULT_MEMORY, sizing::DEFAULT_MILLI_CPUS),
    };
    if let Some(pod) = &joined
        && (wanted.memory.is_some_and(|own| own > pod.memory())
            || wanted.milli_cpus.is_some_and(|own| own > milli_cpus))
    {
        return Err(invalid(format!(
            "that is more than pod {} has: {} MiB of memory and {} processors",
            pod.name,
            pod.memory() >> 20,
            f64::from(milli_cpus) / 1000.0
        )));
    }
    let hostname = joined.as_ref().map(|pod| pod.hostname()).or(wanted.hostname);
    let options = spec::Options {
        command: wanted.command,
        entrypoint: wanted.entrypoint,
        env: wanted.env,
        workdir: wanted.workdir,
        user: wanted.user,
        hostname: hostname.unwrap_or_else(|| id.short().to_owned()),
        memory: wanted.memory.unwrap_or(memory),
        milli_cpus: wanted.milli_cpus.unwrap_or(milli_cpus),
        pids: wanted.pids.unwrap_or_else(|| default_pids(wanted.memory.unwrap_or(memory))),
        shared: joined.as_ref().map(|_| milli_cpus),
        terminal: wanted.terminal.map(|size| (size.cols, size.rows)),
        rights: spec::rights::Rights {
            read_only: wanted.security.read_only,
            no_new_privileges: wanted.security.no_new_privileges,
            cap_add: wanted.security.cap_add,
            cap_drop: wanted.security.cap_drop,
            groups: wanted.security.groups,
        },
        volumes: wanted.mounts.into_iter().map(|mount| (mount.source, mount.path, mount.read_only)).collect(),
    };
    let made = spec::container(id.as_str(), &image.config, &options)?;
    let (pod, pod_name) = match joined {
        Some(pod) => (pod.id, Some(pod.name)),
        None => (PodId::random()?, None),
    };
    let record = Record {
        id,
        pod,
        pod_name,
        slot: None,
        name: String::new(),
        image: wanted.image,
        image_id: image.id.to_string(),
        args: made.args,
        spec: made.oci,
        stop_signal: made.stop_signal,
        memory: options.memory,
        milli_cpus: options.milli_cpus,
        stdin: request.stdin,
        auto_remove: request.auto_remove,
        request,
        state: State::Created,
        exit: None,
        created_ms: now_ms(),
        started_ms: None,
        finished_ms: None,
        boot: None,
        stopped: false,
        restarts: 0,
        backoff_ms: 0,
        base: Position::default(),
        network: None,
    };
    Ok((record, image))
}

/// Makes a container that somebody may start later.
///
/// # Errors
/// When the request makes no sense, the image is missing, the name is in use.
pub async fn create(daemon: &Shared, request: CreateContainer) -> Result<Record> {
    let name = request.name.clone();
    let (record, _) = plan(daemon, request, &mut Timing::begin()).await?;
    insert(daemon, record, name).await
}

/// Makes a container and begins to start it. Returns when it is in the store, and what it has to do without; [`Live::started`] tells the
/// rest.
///
/// # Errors
/// As [`create`], and when this machine has no VMs to give.
pub async fn create_and_start(
    daemon: &Shared,
    request: CreateContainer,
) -> Result<(Record, Arc<Live>, Option<String>)> {
    let mut timing = Timing::begin();
    let name = request.name.clone();
    let (record, image) = plan(daemon, request, &mut timing).await?;
    // What the user can mend first.
    if record.pod_name.is_none() {
        life::sandbox_plan(&record)?;
    }
    let plan = life::task_plan(daemon, &record, image.disk);
    let host = daemon.host()?;
    let record = Record { state: State::Starting, boot: Some(daemon.boot.clone()), ..record };
    let id = record.id.clone();
    let log_dir = daemon.paths.log(id.as_str());
    let log = OutputLog::open(&log_dir, life::log_limits(&record), None).map_err(|error| {
        // Its folder may have found room, and what goes into it not.
        life::remove_log(daemon, &id);
        named(error, "make the container's log", &log_dir)
    })?;
    // While the row is on its way to the disk. A layer or log without a row is swept at the next start.
    let layer = life::layer(daemon, &record);
    let record = match insert(daemon, record, name).await {
        Ok(record) => record,
        Err(error) => {
            // It is being made or was; the error of the insertion counts.
            let _ = layer.await;
            let _ = daemon.uppers.remove(id.as_str());
            life::remove_log(daemon, &id);
            return Err(error);
        }
    };
    timing.reached("container noted");
    let live = Live::new(log);
    daemon.adopt(&id, live.clone());
    let start = life::Start {
        daemon: daemon.clone(),
        record: record.clone(),
        live: live.clone(),
        by_policy: false,
        timing,
    };
    // A task of its own: whoever asked may go away, and the life goes on.
    tokio::spawn(start.run(host, plan, layer));
    let warning = match record.pod_name {
        None => crate::network::foresee(daemon, (&record.request).into()).await,
        // Its pod was warned of.
        Some(_) => None,
    };
    Ok((record, live, warning))
}

/// Notes a container under its name or a made-up one.
async fn insert(daemon: &Shared, record: Record, name: Option<String>) -> Result<Record> {
    let daemon = daemon.clone();
    tokio::task::spawn_blocking(move || {
        names::insert(name.as_deref(), |made_up| {
            let record = Record { name: made_up, ..record.clone() };
            match daemon.store.insert(&record) {
                Ok(()) => Ok(Some(record)),
                Err(StoreError::NameInUse(_)) if name.is_none() => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
    })
    .await?
}

#[cfg(test)]
mod tests {
    use super::*;
    use vial_api::{LogOptions, RestartPolicy};

    #[test]
    fn requests_that_contradict_themselves_are_refused() {
        let good = || CreateContainer { image: "busybox".into(), ..CreateContainer::default() };
        assert!(check(&good()).is_ok());
        assert!(
            check(&CreateContainer { auto_remove: true, restart: RestartPolicy::Always, ..good() }).is_err()
        );
        assert!(check(&CreateContainer { name: Some("a b".into()), ..good() }).is_err());
        assert!(check(&CreateContainer { disk: Some(1), ..good() }).is_err());
        assert!(check(&CreateContainer { log: LogOptions { max_size: 1, max_file: 1 }, ..good() }).is_err());
    }
}
