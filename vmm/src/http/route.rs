//! From method, path and body to an [`Action`]: a pure function, fed with whatever comes in through the socket.

use super::action::{Action, BalloonAction, Configure, Fault, VmState};
use crate::api::config::BalloonStart;
use crate::api::control::Unplugged;
use crate::api::document;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Body of `PUT /actions` and `PUT /vial/actions`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ActionInfo<T> {
    action_type: T,
}

/// Body of `PATCH /vm`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Vm {
    state: VmState,
}

/// A body that says nothing.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// Understands a request.
///
/// # Errors
/// [`Fault`]s of status 400 in Firecracker's words: no such path, no or too much of a body, a body of another shape, ids that
/// differ.
pub fn route(method: &str, path: &str, body: &[u8]) -> Result<Action, Fault> {
    let mut rest = path.strip_prefix('/').unwrap_or(path).split_terminator('/');
    let empty = rest.clone().any(str::is_empty);
    let parts: [&str; 4] = std::array::from_fn(|_| rest.next().unwrap_or_default());
    match method {
        // An empty part is the end of a path below: what stands behind it would go unread.
        _ if empty || rest.next().is_some() => Err(unknown(method, parts[0])),
        "GET" if !body.is_empty() => Err(Fault::bad("GET request cannot have a body.")),
        "GET" => get(parts),
        "PUT" if body.is_empty() => Err(Fault::bad("Empty PUT request.")),
        "PUT" => put(parts, body),
        // The one whose body is optional.
        "PATCH" if body.is_empty() && parts[0] != "balloon" => Err(Fault::bad("Empty PATCH request.")),
        "PATCH" => patch(parts, body),
        "DELETE" if !body.is_empty() => Err(Fault::bad("DELETE request cannot have a body.")),
        "DELETE" => delete(parts),
        _ => Err(unknown(method, parts[0])),
    }
}

fn unknown(method: &str, first: &str) -> Fault {
    Fault::bad(format!("Invalid request method and/or path: {method} {first}."))
}

fn get(parts: [&str; 4]) -> Result<Action, Fault> {
    Ok(match parts {
        ["", ..] => Action::DescribeInstance,
        ["version", "", ..] => Action::Version,
        ["vm", "config", "", _] => Action::VmConfig,
        ["machine-config", "", ..] => Action::GetMachineConfig,
        ["mmds", "", ..] => Action::GetMmds,
        ["balloon", "", ..] => Action::Balloon(BalloonAction::Get),
        ["balloon", "statistics", "", _] => Action::Balloon(BalloonAction::Statistics),
        ["balloon", "hinting", "status", ""] => Action::Balloon(BalloonAction::Hinting),
        ["hotplug", "memory", "", _] => Action::GetMemory,
        ["vial", "devices", "", _] => Action::Devices,
        ["vial", "events", "", _] => Action::Events,
        ["vial", "metrics", "", _] => Action::Prometheus,
        [first, ..] => return Err(unknown("GET", first)),
    })
}

/// What is unplugged.
fn delete(parts: [&str; 4]) -> Result<Action, Fault> {
    let [kind, id, "", _] = parts else { return Err(unknown("DELETE", parts[0])) };
    let name: fn(String) -> Unplugged = match kind {
        "drives" => Unplugged::Drive,
        "network-interfaces" => Unplugged::Interface,
        "pmem" => Unplugged::Pmem,
        _ => return Err(unknown("DELETE", kind)),
    };
    checked(id)?;
    Ok(Action::Unplug(name(id.to_owned())))
}

fn put(parts: [&str; 4], body: &[u8]) -> Result<Action, Fault> {
    let configure = |what| Ok(Action::Configure(Box::new(what)));
    match parts {
        ["actions", "", ..] => json(body).map(|info: ActionInfo<_>| Action::Act(info.action_type)),
        ["boot-source", "", ..] => configure(Configure::BootSource(json(body)?)),
        ["machine-config", "", ..] => configure(Configure::Machine(json(body)?)),
        ["drives", id, "", _] => {
            checked(id)?;
            let drive: crate::api::config::Drive = json(body)?;
            same(id, &drive.drive_id)?;
            configure(Configure::Drive(drive))
        }
        ["network-interfaces", id, "", _] => {
            checked(id)?;
            let net: crate::api::config::NetworkInterface = json(body)?;
            same(id, &net.iface_id)?;
            configure(Configure::Network(net))
        }
        ["vsock", "", ..] => configure(Configure::Vsock(json(body)?)),
        ["entropy", "", ..] => configure(Configure::Entropy(json(body)?)),
        ["logger", "", ..] => json(body).map(Action::Logger),
        ["metrics", "", ..] => json(body).map(Action::Metrics),
        ["mmds", "", ..] => json(body).map(Action::PutMmds),
        ["mmds", "config", "", _] => configure(Configure::Mmds(json(body)?)),
        ["balloon", "", ..] => configure(Configure::Balloon(json(body)?)),
        ["cpu-config", "", ..] => configure(Configure::Cpu(json(body)?)),
        ["pmem", id, "", _] => {
            checked(id)?;
            let pmem: crate::api::config::Pmem = json(body)?;
            same(id, &pmem.id)?;
            configure(Configure::Pmem(pmem))
        }
        ["serial", "", ..] => configure(Configure::Serial(json(body)?)),
        ["hotplug", "memory", "", _] => configure(Configure::Hotplug(json(body)?)),
        ["snapshot", "create" | "load", "", _] => Ok(Action::Lacking("snapshots")),
        ["vial", "", ..] => configure(Configure::Extensions(json(body)?)),
        ["vial", "file-systems", tag, ""] => {
            checked(tag)?;
            let fs: crate::api::config::FileSystem = json(body)?;
            same(tag, &fs.tag)?;
            configure(Configure::FileSystem(fs))
        }
        ["vial", "actions", "", _] => json(body).map(|info: ActionInfo<_>| Action::Vial(info.action_type)),
        [first, ..] => Err(unknown("PUT", first)),
    }
}

fn patch(parts: [&str; 4], body: &[u8]) -> Result<Action, Fault> {
    match parts {
        ["machine-config", "", ..] => {
            let update: crate::api::config::MachineConfigUpdate = json(body)?;
            if update == crate::api::config::MachineConfigUpdate::default() {
                return Err(Fault::bad("Empty PATCH request."));
            }
            Ok(Action::Configure(Box::new(Configure::MachineUpdate(update))))
        }
        ["drives", id, "", _] => {
            checked(id)?;
            let drive: crate::api::config::PartialDrive = json(body)?;
            same(id, &drive.drive_id)?;
            Ok(Action::PatchDrive(drive))
        }
        ["network-interfaces", id, "", _] => {
            checked(id)?;
            let net: crate::api::config::PartialNetworkInterface = json(body)?;
            same(id, &net.iface_id)?;
            Ok(Action::PatchNetwork(net))
        }
        ["mmds", "", ..] => json(body).map(Action::PatchMmds),
        ["vm", "", ..] => json(body).map(|vm: Vm| Action::PatchVm(vm.state)),
        ["balloon", ..] => patch_balloon(parts, body),
        ["pmem", id, "", _] => {
            checked(id)?;
            let pmem: crate::api::config::PartialPmem = json(body)?;
            same(id, &pmem.id)?;
            Ok(Action::PatchPmem(pmem))
        }
        ["hotplug", "memory", "", _] => json(body).map(Action::PatchMemory),
        [first, ..] => Err(unknown("PATCH", first)),
    }
}

fn patch_balloon(parts: [&str; 4], body: &[u8]) -> Result<Action, Fault> {
    let action = match parts {
        ["balloon", "hinting", "start", ""] if body.is_empty() => {
            BalloonAction::Start(BalloonStart::default())
        }
        ["balloon", "hinting", "start", ""] => BalloonAction::Start(json(body)?),
        ["balloon", "hinting", "stop", ""] if body.is_empty() => BalloonAction::Stop,
        ["balloon", "hinting", "stop", ""] => json(body).map(|Nothing {}| BalloonAction::Stop)?,
        _ if body.is_empty() => return Err(Fault::bad("Empty PATCH request.")),
        ["balloon", "", ..] => BalloonAction::Resize(json(body)?),
        ["balloon", "statistics", "", _] => BalloonAction::Interval(json(body)?),
        [first, ..] => return Err(unknown("PATCH", first)),
    };
    Ok(Action::Balloon(action))
}

fn json<T: DeserializeOwned + Serialize>(body: &[u8]) -> Result<T, Fault> {
    document::parse(body).map_err(|error| {
        Fault::bad(format!("An error occurred when deserializing the json body of a request: {error}."))
    })
}

fn checked(id: &str) -> Result<(), Fault> {
    if id.is_empty() {
        return Err(Fault::bad("The ID cannot be empty."));
    }
    if !id.chars().all(|letter| letter == '_' || letter.is_alphanumeric()) {
        let message = "API Resource IDs can only contain alphanumeric characters and underscores.";
        return Err(Fault::bad(message));
    }
    Ok(())
}

fn same(path: &str, body: &str) -> Result<(), Fault> {
    if path == body {
        return Ok(());
    }
    Err(Fault::bad("The id from the path does not match the id from the body!"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::action::{InstanceAction, VmState};
    use proptest::prelude::*;

    #[test]
    fn each_path_has_its_action() {
        for (method, path, body, expected) in [
            ("GET", "/", "", Action::DescribeInstance),
            ("GET", "/version", "", Action::Version),
            ("GET", "/vm/config", "", Action::VmConfig),
            ("GET", "/machine-config/", "", Action::GetMachineConfig),
            (
                "PUT",
                "/actions",
                r#"{"action_type":"InstanceStart"}"#,
                Action::Act(InstanceAction::InstanceStart),
            ),
            ("PATCH", "/vm", r#"{"state":"Paused"}"#, Action::PatchVm(VmState::Paused)),
            ("DELETE", "/pmem/a", "", Action::Unplug(Unplugged::Pmem("a".into()))),
            ("GET", "/vial/events", "", Action::Events),
            ("PATCH", "/balloon/hinting/stop", "{}", Action::Balloon(BalloonAction::Stop)),
            ("PUT", "/snapshot/load", "{}", Action::Lacking("snapshots")),
        ] {
            assert_eq!(route(method, path, body.as_bytes()), Ok(expected), "{method} {path}");
        }
    }

    #[test]
    fn mistakes_have_the_words_that_clients_compare() {
        for (method, path, body, expected) in [
            ("GET", "/", "{}", "GET request cannot have a body."),
            ("PUT", "/drives/a", "", "Empty PUT request."),
            ("PATCH", "/vm", "", "Empty PATCH request."),
            ("PATCH", "/machine-config", "{}", "Empty PATCH request."),
            ("PUT", "/actions?x", "{}", "Invalid request method and/or path: PUT actions?x."),
            ("GET", "/?x=1", "", "Invalid request method and/or path: GET ?x=1."),
            ("PUT", "/drives/a?x", "{}", "API Resource IDs can only contain"),
            ("GET", "/drives", "", "Invalid request method and/or path: GET drives."),
            ("PUT", "/machine-config/x", "{}", "Invalid request method and/or path: PUT machine-config."),
            ("GET", "/version//x", "", "Invalid request method and/or path: GET version."),
            ("GET", "/vm/config//foo", "", "Invalid request method and/or path: GET vm."),
            ("GET", "/vm/config/a/b/c", "", "Invalid request method and/or path: GET vm."),
            ("PUT", "//mmds", "{}", "Invalid request method and/or path: PUT ."),
            ("PATCH", "/balloon/hinting/stop", r#"{"a":1}"#, "An error occurred when deserializing"),
            ("DELETE", "/balloon", "", "Invalid request method and/or path: DELETE balloon."),
            ("DELETE", "/drives", "", "The ID cannot be empty."),
            ("DELETE", "/drives/a", "{}", "DELETE request cannot have a body."),
            ("PUT", "/drives", "{}", "The ID cannot be empty."),
            (
                "PUT",
                "/drives/a-b",
                "{}",
                "API Resource IDs can only contain alphanumeric characters and underscores.",
            ),
            (
                "PUT",
                "/drives/a",
                r#"{"drive_id":"b"}"#,
                "The id from the path does not match the id from the body!",
            ),
            (
                "PUT",
                "/actions",
                r#"{"action_type":"Dance"}"#,
                "An error occurred when deserializing the json body of a request: unknown variant `Dance`",
            ),
            (
                "PUT",
                "/machine-config",
                "[2,128]",
                "An error occurred when deserializing the json body of a request: the document is a list",
            ),
            (
                "PUT",
                "/drives/a",
                r#"{"drive_id":"a","rate_limiter":[]}"#,
                "An error occurred when deserializing the json body of a request: `rate_limiter` is a list",
            ),
            ("PUT", "/actions", r#"["InstanceStart"]"#, "An error occurred when deserializing"),
            (
                "PUT",
                "/machine-config",
                r#"{"vcpu_count":1,"mem_size_mib":128,"frob":1}"#,
                "An error occurred when deserializing the json body of a request: unknown field `frob`",
            ),
        ] {
            let fault = route(method, path, body.as_bytes()).unwrap_err();
            assert_eq!(fault.status, 400);
            assert!(fault.message.starts_with(expected), "{method} {path}: {}", fault.message);
        }
    }

    proptest! {
        #[test]
        fn any_request_is_an_action_or_a_fault(
            method in "GET|PUT|PATCH|DELETE",
            path in "(/(drives|vm|mmds|machine-config|network-interfaces|balloon|vial|\\PC{0,4})){0,5}/?",
            body in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let _ = route(&method, &path, &body);
        }
    }
}
