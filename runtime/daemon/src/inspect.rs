//! What `inspect` shows, under the names that `docker inspect` has, because scripts read it: pure functions.
//!
//! What Docker has no name for is named in the same manner: `Pod`, `VmmPid`, `Disk`, `Spec`.

use crate::store::Record;
use serde_json::{Value, json};
use std::time::{Duration, UNIX_EPOCH};
use vial_api::{Container, RestartPolicy, State};
use vial_image::Image;

/// A container: as the API's own type has it, for the command line, and under Docker's names, for scripts.
pub fn container(record: &Record, shown: &Container) -> Value {
    match (serde_json::to_value(shown), docker(record, shown)) {
        (Ok(Value::Object(mut own)), Value::Object(docker)) => {
            own.extend(docker);
            own.into()
        }
        (_, docker) => docker,
    }
}

/// As `docker inspect` has it: a port of the container, and where on the host it is.
fn network(shown: &Container) -> Value {
    let mut ports = serde_json::Map::new();
    for port in &shown.ports {
        let key = format!("{}/{}", port.container, port.protocol.as_str());
        let ip = port.ip.map_or_else(|| "0.0.0.0".into(), |ip| ip.to_string());
        let binding = json!({ "HostIp": ip, "HostPort": port.host.to_string() });
        if let Some(bindings) = ports.entry(key).or_insert_with(|| json!([])).as_array_mut() {
            bindings.push(binding);
        }
    }
    let network = shown.network.as_ref();
    let text = |ip: Option<std::net::IpAddr>| ip.map(|ip| ip.to_string()).unwrap_or_default();
    json!({
        "IPAddress": text(network.map(|network| network.ipv4)),
        "GlobalIPv6Address": text(network.and_then(|network| network.ipv6)),
        "Gateway": text(network.map(|network| network.gateway)),
        "MacAddress": network.map(|network| network.mac.clone()).unwrap_or_default(),
        "Interface": network.map(|network| network.interface.clone()).unwrap_or_default(),
        "Ports": ports,
    })
}

fn docker(record: &Record, shown: &Container) -> Value {
    let exit = record.exit.clone().unwrap_or_default();
    let process = &record.spec["process"];
    let request = &record.request;
    let (policy, retries) = match request.restart {
        RestartPolicy::OnFailure { max_retries } => ("on-failure".to_owned(), max_retries),
        other => (other.to_string(), 0),
    };
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
        "RestartCount": record.restarts,
        "State": {
            "Status": shown.state.as_str(),
            // Docker's paused containers count as running ones too.
            "Running": matches!(shown.state, State::Running | State::Paused),
            "Paused": shown.state == State::Paused,
            "Restarting": shown.state == State::Restarting,
            "Dead": shown.state == State::Dead,
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
            "Cmd": request.command,
            "Entrypoint": request.entrypoint,
            "Labels": request.labels,
            "Tty": process["terminal"],
            "OpenStdin": record.stdin,
            "StopSignal": record.stop_signal,
        },
        "NetworkSettings": network(shown),
        "HostConfig": {
            "Memory": record.memory,
            "NanoCpus": u64::from(record.milli_cpus) * 1_000_000,
            "AutoRemove": record.auto_remove,
            "PidsLimit": record.spec["linux"]["resources"]["pids"]["limit"],
            "RestartPolicy": { "Name": policy, "MaximumRetryCount": retries },
            "LogConfig": {
                "Type": "vial",
                "Config": {
                    "max-size": request.log.max_size.to_string(),
                    "max-file": request.log.max_file.to_string(),
                },
            },
        },
        "Pod": shown.pod,
        "PodName": shown.pod_name,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::new_record;

    #[test]
    fn the_command_line_and_scripts_both_find_their_names() {
        let record = new_record("web");
        let shown: Container = serde_json::from_value(json!({
            "id": record.id.as_str(), "name": "web", "pod": "p", "image": "busybox", "image_id": "i", "command": ["sh"], "state": "paused",
            "created_ms": 5, "memory": 1, "milli_cpus": 1000, "auto_remove": false,
        }))
        .unwrap();
        let value = container(&record, &shown);
        assert_eq!(serde_json::from_value::<Container>(value.clone()).unwrap(), shown);
        assert_eq!(value["Name"], "web");
        assert_eq!(value["State"]["Status"], "paused");
        assert_eq!(value["State"]["Running"], true);
        assert_eq!(value["HostConfig"]["RestartPolicy"]["Name"], "on-failure");
    }
}
