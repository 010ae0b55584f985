//! What `inspect` shows, under the names that `docker inspect` has, because scripts read it: pure functions.
//!
//! What Docker has no name for is named in the same manner: `Pod`, `VmmPid`, `Disk`, `Spec`.

use crate::store::Record;
use serde_json::{Value, json};
use std::time::{Duration, UNIX_EPOCH};
use vial_api::{Container, State};
use vial_image::Image;

/// A container.
pub fn container(record: &Record, shown: &Container) -> Value {
    let exit = record.exit.clone().unwrap_or_default();
    let process = &record.spec["process"];
    let (path, args) = match record.args.split_first() {
        Some((path, args)) => (path.as_str(), args),
        None => ("", &[][..]),
    };
    json!({
        "Id": shown.id,
        "Name": shown.name,
        "Created": timestamp(Some(record.created_ms)),
        "Path": path,
        "Args": args,
        "Image": record.image_id,
        "State": {
            "Status": record.state.as_str(),
            "Running": record.state == State::Running,
            "ExitCode": exit.code,
            "OOMKilled": exit.oom,
            "Error": exit.reason.unwrap_or_default(),
            "StartedAt": timestamp(record.started_ms),
            "FinishedAt": timestamp(record.finished_ms),
        },
        "Config": {
            "Image": record.image,
            "Hostname": record.spec["hostname"],
            "User": process["user"]["username"].as_str().unwrap_or_default(),
            "Env": process["env"],
            "WorkingDir": process["cwd"],
            "OpenStdin": record.stdin,
            "StopSignal": record.stop_signal,
        },
        "HostConfig": {
            "Memory": record.memory,
            "NanoCpus": u64::from(record.milli_cpus) * 1_000_000,
            "AutoRemove": record.auto_remove,
        },
        "Pod": shown.pod,
        "VmmPid": shown.vmm_pid,
        "Spec": record.spec,
    })
}

/// An image with its OCI configuration.
pub fn image(image: &Image, config: &Value) -> Value {
    json!({
        "Id": image.id.to_string(),
        "RepoTags": image.names,
        "Created": config["created"],
        "Architecture": config["architecture"],
        "Os": config["os"],
        "Size": image.size,
        "Config": config["config"],
        "RootFS": { "Type": "layers", "Layers": config["rootfs"]["diff_ids"] },
        "Disk": image.disk.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
    })
}

/// What has not happened yet happened, as Docker has it, at the beginning of the calendar.
fn timestamp(ms: Option<u64>) -> String {
    match ms {
        Some(ms) => vial_image::rfc3339(UNIX_EPOCH + Duration::from_millis(ms)),
        None => "0001-01-01T00:00:00Z".to_owned(),
    }
}
