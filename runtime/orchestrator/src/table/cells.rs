//! The columns of each kind.

use super::age::{self, since};
use super::{Column, pod};
use crate::object;
use chrono::{DateTime, Utc};
use serde_json::Value;

const fn text(name: &'static str, cell: fn(&Value, DateTime<Utc>) -> Value) -> Column {
    Column { name, kind: "string", priority: 0, cell }
}

const fn number(name: &'static str, cell: fn(&Value, DateTime<Utc>) -> Value) -> Column {
    Column { name, kind: "integer", priority: 0, cell }
}

const fn wide(name: &'static str, cell: fn(&Value, DateTime<Utc>) -> Value) -> Column {
    Column { name, kind: "string", priority: 1, cell }
}

const NAME: Column = text("Name", |object, _| object::name(object).into());
const AGE: Column =
    text("Age", |object, now| since(object::at(object, &["metadata", "creationTimestamp"]), now));

const CONTAINERS: Column = wide("Containers", |object, _| of_template(object, "name"));
const IMAGES: Column = wide("Images", |object, _| of_template(object, "image"));
const SELECTOR: Column = wide("Selector", |object, _| selector(&object["spec"]["selector"]).into());

pub(super) fn columns(kind: &str) -> &'static [Column] {
    match kind {
        "ConfigMap" => &CONFIG_MAP,
        "Event" => &EVENT,
        "Namespace" => &NAMESPACE,
        "Node" => &NODE,
        "Pod" => &POD,
        "Secret" => &SECRET,
        "ServiceAccount" => &SERVICE_ACCOUNT,
        "Deployment" => &DEPLOYMENT,
        "ReplicaSet" => &REPLICA_SET,
        "CronJob" => &CRON_JOB,
        "Job" => &JOB,
        _ => &PLAIN,
    }
}

static PLAIN: [Column; 2] = [NAME, AGE];

static CONFIG_MAP: [Column; 3] = [
    NAME,
    number("Data", |object, _| {
        (object::object(object, &["data"]).len() + object::object(object, &["binaryData"]).len()).into()
    }),
    AGE,
];

static SECRET: [Column; 4] = [
    NAME,
    text("Type", |object, _| object::text(object, &["type"]).into()),
    number("Data", |object, _| object::object(object, &["data"]).len().into()),
    AGE,
];

static SERVICE_ACCOUNT: [Column; 3] =
    [NAME, number("Secrets", |object, _| object::list(object, &["secrets"]).len().into()), AGE];

static NAMESPACE: [Column; 3] =
    [NAME, text("Status", |object, _| object::text(object, &["status", "phase"]).into()), AGE];

static EVENT: [Column; 10] = [
    text("Last Seen", |object, now| {
        let series = object::at(object, &["series", "lastObservedTime"]);
        let last = series.or(object::at(object, &["lastTimestamp"])).or(object::at(object, &["eventTime"]));
        since(last, now)
    }),
    text("Type", |object, _| object::text(object, &["type"]).into()),
    text("Reason", |object, _| object::text(object, &["reason"]).into()),
    text("Object", |object, _| {
        let kind = object::text(object, &["involvedObject", "kind"]).to_lowercase();
        format!("{kind}/{}", object::text(object, &["involvedObject", "name"])).into()
    }),
    wide("Subobject", |object, _| object::text(object, &["involvedObject", "fieldPath"]).into()),
    wide("Source", |object, _| object::text(object, &["source", "component"]).into()),
    text("Message", |object, _| object::text(object, &["message"]).trim().into()),
    wide("First Seen", |object, now| {
        since(object::at(object, &["firstTimestamp"]).or(object::at(object, &["eventTime"])), now)
    }),
    wide("Count", |object, _| object::number(object, &["count"]).unwrap_or(1).to_string().into()),
    wide("Name", |object, _| object::name(object).into()),
];

static NODE: [Column; 10] = [
    NAME,
    text("Status", |object, _| {
        let ready = object::list(object, &["status", "conditions"])
            .iter()
            .find(|condition| condition["type"] == "Ready");
        let word = match ready.map(|condition| condition["status"] == "True") {
            Some(true) => "Ready",
            Some(false) => "NotReady",
            None => "Unknown",
        };
        if object["spec"]["unschedulable"] == true {
            format!("{word},SchedulingDisabled").into()
        } else {
            word.into()
        }
    }),
    text("Roles", |object, _| {
        let prefix = "node-role.kubernetes.io/";
        let roles: Vec<&str> =
            object::labels(object).keys().filter_map(|label| label.strip_prefix(prefix)).collect();
        if roles.is_empty() { "<none>".into() } else { roles.join(",").into() }
    }),
    AGE,
    text("Version", |object, _| object::text(object, &["status", "nodeInfo", "kubeletVersion"]).into()),
    wide("Internal-IP", |object, _| address(object, "InternalIP")),
    wide("External-IP", |object, _| address(object, "ExternalIP")),
    wide("OS-Image", |object, _| object::text(object, &["status", "nodeInfo", "osImage"]).into()),
    wide("Kernel-Version", |object, _| object::text(object, &["status", "nodeInfo", "kernelVersion"]).into()),
    wide("Container-Runtime", |object, _| {
        object::text(object, &["status", "nodeInfo", "containerRuntimeVersion"]).into()
    }),
];

fn address(node: &Value, kind: &str) -> Value {
    let found = object::list(node, &["status", "addresses"]).iter().find(|address| address["type"] == kind);
    found.map_or("<none>".into(), |address| address["address"].clone())
}

static POD: [Column; 10] = [
    NAME,
    text("Ready", |object, _| pod::ready(object).into()),
    text("Status", |object, _| pod::status(object).into()),
    text("Restarts", |object, now| pod::restarts(object, now).into()),
    AGE,
    wide("IP", |object, _| or_none(object::text(object, &["status", "podIP"]))),
    wide("Node", |object, _| or_none(object::text(object, &["spec", "nodeName"]))),
    wide("Nominated Node", |object, _| or_none(object::text(object, &["status", "nominatedNodeName"]))),
    wide("Readiness Gates", |_, _| "<none>".into()),
    wide("Boot", |object, _| {
        or_none(object::text(object, &["metadata", "annotations", "vial.dev/boot-time"]))
    }),
];

fn or_none(text: &str) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

fn count(object: &Value, path: &[&str]) -> i64 {
    object::number(object, path).unwrap_or(0)
}

static DEPLOYMENT: [Column; 8] = [
    NAME,
    text("Ready", |object, _| {
        format!("{}/{}", count(object, &["status", "readyReplicas"]), count(object, &["spec", "replicas"]))
            .into()
    }),
    number("Up-to-date", |object, _| count(object, &["status", "updatedReplicas"]).into()),
    number("Available", |object, _| count(object, &["status", "availableReplicas"]).into()),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

static REPLICA_SET: [Column; 8] = [
    NAME,
    number("Desired", |object, _| count(object, &["spec", "replicas"]).into()),
    number("Current", |object, _| count(object, &["status", "replicas"]).into()),
    number("Ready", |object, _| count(object, &["status", "readyReplicas"]).into()),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

static JOB: [Column; 8] = [
    NAME,
    text("Status", |object, _| {
        let is = |kind: &str| {
            let conditions = object::list(object, &["status", "conditions"]);
            conditions.iter().any(|condition| condition["type"] == kind && condition["status"] == "True")
        };
        let words = [
            ("Complete", "Complete"),
            ("Failed", "Failed"),
            ("Suspended", "Suspended"),
            ("FailureTarget", "FailureTarget"),
        ];
        let found = words.into_iter().find(|(kind, _)| is(kind)).map(|(_, word)| word);
        let going = if object::is_deleted(object) { "Terminating" } else { "Running" };
        found.unwrap_or(going).into()
    }),
    text("Completions", |object, _| {
        let succeeded = count(object, &["status", "succeeded"]);
        match (object::number(object, &["spec", "completions"]), count(object, &["spec", "parallelism"])) {
            (Some(completions), _) => format!("{succeeded}/{completions}").into(),
            (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}").into(),
            (None, _) => format!("{succeeded}/1").into(),
        }
    }),
    text("Duration", |object, now| {
        let start = age::time(object::at(object, &["status", "startTime"]));
        let end = age::time(object::at(object, &["status", "completionTime"]));
        start.map_or("".into(), |start| age::human(end.unwrap_or(now) - start).into())
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

static CRON_JOB: [Column; 10] = [
    NAME,
    text("Schedule", |object, _| object::text(object, &["spec", "schedule"]).into()),
    text("Timezone", |object, _| or_none(object::text(object, &["spec", "timeZone"]))),
    text(
        "Suspend",
        |object, _| if object["spec"]["suspend"] == true { "True".into() } else { "False".into() },
    ),
    number("Active", |object, _| object::list(object, &["status", "active"]).len().into()),
    text("Last Schedule", |object, now| match object::at(object, &["status", "lastScheduleTime"]) {
        None => "<none>".into(),
        last => since(last, now),
    }),
    AGE,
    wide("Containers", |object, _| of_template(&object["spec"]["jobTemplate"], "name")),
    wide("Images", |object, _| of_template(&object["spec"]["jobTemplate"], "image")),
    wide("Selector", |object, _| selector(&object["spec"]["jobTemplate"]["spec"]["selector"]).into()),
];

fn of_template(object: &Value, field: &str) -> Value {
    let containers = object::list(object, &["spec", "template", "spec", "containers"]);
    let all: Vec<&str> = containers.iter().map(|container| object::text(container, &[field])).collect();
    all.join(",").into()
}

fn selector(selector: &Value) -> String {
    let mut parts: Vec<String> = object::texts(object::object(selector, &["matchLabels"]))
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    for expression in object::list(selector, &["matchExpressions"]) {
        let (key, values) = (object::text(expression, &["key"]), object::list(expression, &["values"]));
        let values: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
        parts.push(match object::text(expression, &["operator"]) {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.into(),
            _ => format!("!{key}"),
        });
    }
    if parts.is_empty() { "<none>".into() } else { parts.join(",") }
}
