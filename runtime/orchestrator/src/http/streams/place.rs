//! Which container a request means, and whether it is in a state for it: pure functions of the pod, with Kubernetes' words.

use crate::object;
use crate::status::{ApiError, Reason};
use serde_json::Value;

fn names(pod: &Value, list: &str) -> Vec<String> {
    let containers = object::list(pod, &["spec", list]).iter();
    containers.map(|container| object::text(container, &["name"]).to_owned()).collect()
}

/// The container of this name; of a pod with one, that one if the name is empty.
pub(super) fn container(pod: &Value, wanted: &str) -> Result<String, ApiError> {
    let name = object::name(pod);
    let (own, init) = (names(pod, "containers"), names(pod, "initContainers"));
    if !wanted.is_empty() {
        let is_there = own.iter().chain(&init).any(|name| name == wanted);
        let error = || ApiError::bad_request(format!("container {wanted} is not valid for pod {name}"));
        return is_there.then(|| wanted.to_owned()).ok_or_else(error);
    }
    if let [only] = &own[..] {
        return Ok(only.clone());
    }
    let mut message =
        format!("a container name must be specified for pod {name}, choose one of: [{}]", own.join(" "));
    if !init.is_empty() {
        message += &format!(" or one of the init containers: [{}]", init.join(" "));
    }
    Err(ApiError::bad_request(message))
}

fn status<'a>(pod: &'a Value, container: &str) -> Option<&'a Value> {
    ["containerStatuses", "initContainerStatuses"]
        .into_iter()
        .flat_map(|list| object::list(pod, &["status", list]))
        .find(|status| object::text(status, &["name"]) == container)
}

/// The id of the container for whom wants to be connected with its processes.
pub(super) fn running(pod: &Value, container: &str) -> Result<String, ApiError> {
    let phase = object::text(pod, &["status", "phase"]);
    if matches!(phase, "Succeeded" | "Failed") {
        let message = format!("cannot exec into a container in a completed pod; current phase is {phase}");
        return Err(ApiError::bad_request(message));
    }
    let found = status(pod, container).filter(|status| status["state"]["running"].is_object());
    let gone = || {
        ApiError::new(
            Reason::InternalError,
            format!("unable to upgrade connection: container not found ({container:?})"),
        )
    };
    Ok(object::text(found.ok_or_else(gone)?, &["containerID"]).to_owned())
}

/// The id of the container whose log is wanted.
pub(super) fn logged(pod: &Value, container: &str, previous: bool) -> Result<String, ApiError> {
    let name = object::name(pod);
    let refuse =
        |what: String| Err(ApiError::bad_request(format!("container {container:?} in pod {name:?} {what}")));
    let Some(status) = status(pod, container) else { return refuse("is not available".into()) };
    let last = object::text(status, &["lastState", "terminated", "containerID"]);
    if previous {
        if last.is_empty() {
            let message = format!("previous terminated container {container:?} in pod {name:?} not found");
            return Err(ApiError::bad_request(message));
        }
        return Ok(last.to_owned());
    }
    let (state, own) = (&status["state"], object::text(status, &["containerID"]));
    if state["running"].is_object() {
        return Ok(own.to_owned());
    }
    let ended = object::text(state, &["terminated", "containerID"]);
    if !ended.is_empty() {
        return Ok(ended.to_owned());
    }
    // It waits to be started again, or could not be: what it wrote before is what there is.
    if !last.is_empty() {
        return Ok(last.to_owned());
    }
    if state["terminated"].is_object() {
        return refuse("is terminated".into());
    }
    match object::text(state, &["waiting", "reason"]) {
        "" => refuse("is waiting to start - no logs yet".into()),
        "ErrImagePull" => refuse("is waiting to start: image can't be pulled".into()),
        "ImagePullBackOff" => refuse("is waiting to start: trying and failing to pull image".into()),
        reason => refuse(format!("is waiting to start: {reason}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(status: Value) -> Value {
        let mut status = status;
        status["name"] = "a".into();
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]},
            "status": {"phase": "Running", "containerStatuses": [status]}})
    }

    #[test]
    fn a_container_is_chosen() {
        let one = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}});
        assert_eq!(container(&one, "").unwrap(), "a");
        assert_eq!(container(&one, "i").unwrap(), "i");
        assert_eq!(container(&one, "b").unwrap_err().message, "container b is not valid for pod p");
        let two = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        let message = container(&two, "").unwrap_err().message;
        assert_eq!(message, "a container name must be specified for pod p, choose one of: [a b]");
    }

    #[test]
    fn only_what_runs_is_connected_with() {
        let runs = pod(json!({"containerID": "vial://1", "state": {"running": {}}}));
        assert_eq!(running(&runs, "a").unwrap(), "vial://1");
        let waits = pod(json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}}}));
        assert!(running(&waits, "a").unwrap_err().message.contains("container not found (\"a\")"));
        let mut over = runs;
        over["status"]["phase"] = "Succeeded".into();
        assert!(running(&over, "a").unwrap_err().message.contains("completed pod"));
    }

    #[test]
    fn the_log_is_of_the_right_run() {
        let last = json!({"terminated": {"containerID": "vial://0"}});
        let runs = pod(json!({"containerID": "vial://1", "state": {"running": {}}, "lastState": last}));
        assert_eq!(logged(&runs, "a", false).unwrap(), "vial://1");
        assert_eq!(logged(&runs, "a", true).unwrap(), "vial://0");
        let crashed = pod(json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": last}));
        assert_eq!(logged(&crashed, "a", false).unwrap(), "vial://0");
        let ended = pod(json!({"state": {"terminated": {"containerID": "vial://1"}}}));
        assert_eq!(logged(&ended, "a", false).unwrap(), "vial://1");
        let message = |status: Value, previous| logged(&pod(status), "a", previous).unwrap_err().message;
        assert_eq!(
            message(json!({"state": {"waiting": {"reason": "ContainerCreating"}}}), false),
            "container \"a\" in pod \"p\" is waiting to start: ContainerCreating"
        );
        assert_eq!(
            message(json!({"state": {"running": {}}}), true),
            "previous terminated container \"a\" in pod \"p\" not found"
        );
        assert!(message(json!({}), false).contains("no logs yet"));
        assert!(logged(&json!({}), "a", false).unwrap_err().message.contains("is not available"));
    }
}
