//! `metrics.k8s.io/v1beta1`: what pods and the machine use now (`kubectl top`). Nothing of it is kept.

use super::reply::{self, Reply};
use super::request::Query;
use crate::controllers::kind;
use crate::engine::Engine;
use crate::object;
use crate::selector::LabelSelector;
use crate::status::{ApiError, Reason};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// An answer that takes a while.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Who knows what is used. The daemon does; it never asks for more than this.
pub trait Metrics: Send + Sync {
    /// Of each pod that runs. Those that do not answer are left out.
    fn pods(&self) -> Answer<'_, Vec<PodUsage>>;
    /// Of the machine, if it can be seen.
    fn machine(&self) -> Answer<'_, Option<Usage>>;
}

/// Nobody knows.
#[derive(Debug)]
pub struct NoMetrics;

impl Metrics for NoMetrics {
    fn pods(&self) -> Answer<'_, Vec<PodUsage>> {
        Box::pin(async { Vec::new() })
    }

    fn machine(&self) -> Answer<'_, Option<Usage>> {
        Box::pin(async { None })
    }
}

/// What is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Billionths of a processor, in the mean over the window.
    pub nanocores: u64,
    /// Memory, bytes.
    pub bytes: u64,
    /// Over which time the processor's share was measured.
    pub window: Duration,
    /// When it was measured.
    pub at: DateTime<Utc>,
}

/// What a pod's containers use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodUsage {
    /// Of the Pod.
    pub uid: String,
    /// By their names.
    pub containers: Vec<(String, Usage)>,
}

/// What a path asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Path {
    is_node: bool,
    namespace: String,
    name: String,
}

impl Path {
    /// The steps behind `/apis/metrics.k8s.io/v1beta1`.
    pub(super) fn parse(steps: &[&str]) -> Option<Self> {
        let (is_node, namespace, name) = match steps {
            ["nodes"] => (true, "", ""),
            ["nodes", name] => (true, "", *name),
            ["pods"] => (false, "", ""),
            ["namespaces", namespace, "pods"] => (false, *namespace, ""),
            ["namespaces", namespace, "pods", name] => (false, *namespace, *name),
            _ => return None,
        };
        Some(Self { is_node, namespace: namespace.into(), name: name.into() })
    }
}

pub(super) async fn answer(
    metrics: &dyn Metrics,
    engine: &Engine,
    path: &Path,
    query: &Query,
) -> Result<Reply, ApiError> {
    let labels = LabelSelector::parse(query.text("labelSelector"))?;
    let mut items = if path.is_node { machine(metrics, engine).await } else { pods(metrics, engine).await };
    items.retain(|item| {
        (path.namespace.is_empty() || object::namespace(item) == path.namespace)
            && (path.name.is_empty() || object::name(item) == path.name)
            && labels.matches(&object::labels(item))
    });
    let plural = if path.is_node { "nodes" } else { "pods" };
    if !path.name.is_empty() {
        let none = || {
            let message = format!(
                "{plural}.metrics.k8s.io {:?} not found: it does not run, or was not measured yet",
                path.name
            );
            ApiError::new(Reason::NotFound, message).about("metrics.k8s.io", plural, &path.name)
        };
        return Ok(reply::json(200, &items.pop().ok_or_else(none)?));
    }
    let list = if path.is_node { "NodeMetricsList" } else { "PodMetricsList" };
    let list = json!({"kind": list, "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": items});
    Ok(reply::json(200, &list))
}

async fn machine(metrics: &dyn Metrics, engine: &Engine) -> Vec<Value> {
    let Some(usage) = metrics.machine().await else { return Vec::new() };
    let nodes = engine.store().list(kind("nodes"), "").0;
    let one = |node: &Value| {
        let mut item = item("NodeMetrics", node, &usage);
        item["usage"] = resources(&usage);
        item
    };
    nodes.iter().map(|node| one(&node.object)).collect()
}

async fn pods(metrics: &dyn Metrics, engine: &Engine) -> Vec<Value> {
    let used: HashMap<String, Vec<(String, Usage)>> =
        metrics.pods().await.into_iter().map(|pod| (pod.uid, pod.containers)).collect();
    let pods = engine.store().list(kind("pods"), "").0;
    let one = |pod: &Value| {
        let containers = used.get(object::uid(pod))?;
        let mut item = item("PodMetrics", pod, &containers.first()?.1);
        let usages = containers.iter().map(|(name, usage)| json!({"name": name, "usage": resources(usage)}));
        item["containers"] = usages.collect();
        Some(item)
    };
    pods.iter().filter_map(|pod| one(&pod.object)).collect()
}

fn item(kind: &str, of: &Value, usage: &Usage) -> Value {
    let mut metadata =
        json!({"name": object::name(of), "creationTimestamp": of["metadata"]["creationTimestamp"]});
    for field in ["namespace", "labels"] {
        if let Some(value) = of["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    json!({"kind": kind, "apiVersion": "metrics.k8s.io/v1beta1", "metadata": metadata,
        "timestamp": usage.at.to_rfc3339_opts(SecondsFormat::Secs, true), "window": format!("{:.3}s", usage.window.as_secs_f64())})
}

/// In the units that metrics-server uses.
fn resources(usage: &Usage) -> Value {
    json!({"cpu": format!("{}n", usage.nanocores), "memory": format!("{}Ki", usage.bytes.div_ceil(1024))})
}
