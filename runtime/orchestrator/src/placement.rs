//! What pods and the node want of each other: taints and tolerations, affinity. Pure, and bounded by the objects' size.
//!
//! There is one node, so it is every topology's only domain as far as it has the topology's label, and preferences have nothing to choose from.

use crate::object;
use crate::selector::LabelSelector;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use std::collections::BTreeMap;

/// What a node is tainted with while it is cordoned, for those that tolerate even that.
const CORDONED: (&str, &str) = ("node.kubernetes.io/unschedulable", "NoSchedule");

/// Whether a toleration is one of a taint (core's `Toleration.ToleratesTaint`).
fn tolerates(toleration: &Value, key: &str, value: &str, effect: &str) -> bool {
    let text = |field| object::text(toleration, &[field]);
    let is_any = text("key").is_empty() && text("operator") == "Exists";
    (text("effect").is_empty() || text("effect") == effect)
        && (is_any || text("key") == key)
        && match text("operator") {
            "" | "Equal" => text("value") == value,
            "Exists" => true,
            _ => false,
        }
}

fn tolerations<'a>(pod: &'a Value, taint: &'a Value) -> impl Iterator<Item = &'a Value> {
    let text = |field| object::text(taint, &[field]);
    let is_one = move |toleration: &&Value| tolerates(toleration, text("key"), text("value"), text("effect"));
    object::list(pod, &["spec", "tolerations"]).iter().filter(is_one)
}

/// Taints of a node that keep pods away, or drive them out.
fn taints(node: &Value) -> impl Iterator<Item = &Value> {
    object::list(node, &["spec", "taints"]).iter()
}

/// Until when a pod may stay on a node in spite of its taints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stay {
    /// For good.
    Forever,
    /// Until then; that may be over.
    Until(DateTime<Utc>),
}

/// By the taints that drive out (`NoExecute`). One without a time counts from `now`.
pub fn stay(pod: &Value, node: &Value, now: DateTime<Utc>) -> Stay {
    let mut least: Option<DateTime<Utc>> = None;
    for taint in taints(node).filter(|taint| taint["effect"] == "NoExecute") {
        let added = DateTime::parse_from_rfc3339(object::text(taint, &["timeAdded"]))
            .map_or(now, |time| time.to_utc())
            // A clock that was set back must not make them stay.
            .min(now);
        let mut known = tolerations(pod, taint).peekable();
        if known.peek().is_none() {
            least = Some(added);
            continue;
        }
        // The shortest of those that have an end; a negative one is over at once.
        let ends = known.filter_map(|one| object::number(one, &["tolerationSeconds"]));
        if let Some(seconds) = ends.min() {
            let end = added + TimeDelta::seconds(seconds.clamp(0, 1 << 31));
            least = Some(least.map_or(end, |least| least.min(end)));
        }
    }
    least.map_or(Stay::Forever, Stay::Until)
}

/// Why a node does not suit a pod, in the scheduler's words; none: it does. `others` are the pods that are there.
pub fn unsuitable<'a>(
    pod: &Value,
    node: &Value,
    others: impl Iterator<Item = &'a Value> + Clone,
) -> Option<String> {
    let endures_cordon = || {
        let mut all = object::list(pod, &["spec", "tolerations"]).iter();
        all.any(|toleration| tolerates(toleration, CORDONED.0, "", CORDONED.1))
    };
    if node["spec"]["unschedulable"] == true && !endures_cordon() {
        return Some("node(s) were unschedulable".into());
    }
    let drives = |taint: &&Value| matches!(object::text(taint, &["effect"]), "NoSchedule" | "NoExecute");
    if let Some(taint) = taints(node).filter(drives).find(|taint| tolerations(pod, taint).next().is_none()) {
        let text = |field| object::text(taint, &[field]);
        return Some(format!("node(s) had untolerated taint {{{}: {}}}", text("key"), text("value")));
    }
    if !selects(pod, node) {
        return Some("node(s) didn't match Pod's node affinity/selector".into());
    }
    let must_spread = |rule: &&Value| rule["whenUnsatisfiable"] == "DoNotSchedule";
    let mut rules = object::list(pod, &["spec", "topologySpreadConstraints"]).iter().filter(must_spread);
    // Over one domain whatever there is spreads evenly.
    if rules.any(|rule| !object::labels(node).contains_key(object::text(rule, &["topologyKey"]))) {
        let why = "node(s) didn't match pod topology spread constraints (missing required label)";
        return Some(why.into());
    }
    if !is_near(pod, node, others.clone()) {
        return Some("node(s) didn't match pod affinity rules".into());
    }
    if terms(pod, "podAntiAffinity").any(|term| meets(term, pod, node, others.clone())) {
        return Some("node(s) didn't match pod anti-affinity rules".into());
    }
    let is_shunned = |other: &Value| {
        terms(other, "podAntiAffinity").any(|term| meets(term, other, node, std::iter::once(pod)))
    };
    let mut others = others;
    others.any(is_shunned).then(|| "node(s) didn't satisfy existing pods anti-affinity rules".into())
}

/// By `nodeSelector`, and one of the terms of the required node affinity.
fn selects(pod: &Value, node: &Value) -> bool {
    let labels = object::labels(node);
    let wanted = object::texts(object::object(pod, &["spec", "nodeSelector"]));
    let required = ["spec", "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"];
    let terms = object::at(pod, &required).map(|required| object::list(required, &["nodeSelectorTerms"]));
    let name = BTreeMap::from([("metadata.name", object::name(node))]);
    let suits = |term: &Value| {
        let by = |field, of: &BTreeMap<&str, &str>| {
            object::list(term, &[field]).iter().all(|expression| holds(expression, of))
        };
        // A term that says nothing selects nothing.
        let says_something =
            ["matchExpressions", "matchFields"].iter().any(|f| !object::list(term, &[f]).is_empty());
        says_something && by("matchExpressions", &labels) && by("matchFields", &name)
    };
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
        && terms.is_none_or(|terms| terms.iter().any(suits))
}

/// One requirement of a node (`NodeSelectorRequirement`).
fn holds(expression: &Value, of: &BTreeMap<&str, &str>) -> bool {
    let found = of.get(object::text(expression, &["key"]));
    let values = object::list(expression, &["values"]);
    let is_among = found.is_some_and(|found| values.iter().any(|value| value == found));
    let number = |text: &str| text.parse::<i64>().ok();
    let bound = || number(values.first()?.as_str()?);
    let than = |is_so: fn(&i64, &i64) -> bool| {
        found.and_then(|text| number(text)).zip(bound()).is_some_and(|(found, bound)| is_so(&found, &bound))
    };
    match object::text(expression, &["operator"]) {
        "In" => is_among,
        "NotIn" => !is_among,
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => than(i64::gt),
        "Lt" => than(i64::lt),
        _ => false,
    }
}

/// What a pod requires of the pods beside it.
fn terms<'a>(pod: &'a Value, kind: &str) -> impl Iterator<Item = &'a Value> {
    object::list(pod, &["spec", "affinity", kind, "requiredDuringSchedulingIgnoredDuringExecution"]).iter()
}

/// Whether one of `others` is in the term's topology and meant by it.
fn meets<'a>(term: &Value, owner: &Value, node: &Value, mut others: impl Iterator<Item = &'a Value>) -> bool {
    object::labels(node).contains_key(object::text(term, &["topologyKey"]))
        && others.any(|other| means(term, owner, other))
}

/// Whether a term of `owner`'s means this pod.
fn means(term: &Value, owner: &Value, other: &Value) -> bool {
    let namespaces = object::list(term, &["namespaces"]);
    let is_within = match namespaces {
        [] => object::namespace(other) == object::namespace(owner),
        _ => namespaces.iter().any(|name| name == object::namespace(other)),
    };
    let selector = object::at(term, &["labelSelector"]).unwrap_or(&Value::Null);
    let selector = LabelSelector::of_spec(selector).ok().flatten();
    is_within && selector.is_some_and(|selector| selector.matches(&object::labels(other)))
}

fn is_near<'a>(pod: &Value, node: &Value, others: impl Iterator<Item = &'a Value> + Clone) -> bool {
    terms(pod, "podAffinity").all(|term| {
        // The first of a group that wants to be together has nobody to go to yet, and means itself.
        meets(term, pod, node, others.clone())
            || (meets(term, pod, node, std::iter::once(pod))
                && !others.clone().any(|other| means(term, pod, other)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn node(taints: Value) -> Value {
        json!({"metadata": {"name": "box", "labels": {"kubernetes.io/hostname": "box", "cores": "8"}}, "spec": {"taints": taints}})
    }

    fn pod(spec: Value) -> Value {
        json!({"metadata": {"name": "p", "namespace": "n", "labels": {"app": "a"}}, "spec": spec})
    }

    fn why(spec: Value, node: &Value, others: &[Value]) -> String {
        unsuitable(&pod(spec), node, others.iter()).unwrap_or_default()
    }

    #[test]
    fn a_taint_keeps_away_who_does_not_tolerate_it() {
        let tainted = node(
            json!([{"key": "k", "value": "v", "effect": "NoSchedule"}, {"key": "soft", "effect": "PreferNoSchedule"}]),
        );
        assert!(why(json!({}), &tainted, &[]).contains("untolerated taint {k: v}"));
        for (toleration, is_enough) in [
            (json!({"key": "k", "value": "v"}), true),
            (json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}), true),
            (json!({"key": "k", "operator": "Exists"}), true),
            (json!({"operator": "Exists"}), true),
            (json!({"key": "k", "value": "w"}), false),
            (json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), false),
            (json!({"key": "other", "operator": "Exists"}), false),
            (json!({"key": "k", "operator": "Unknown", "value": "v"}), false),
        ] {
            let found = why(json!({"tolerations": [toleration.clone()]}), &tainted, &[]);
            assert_eq!(found.is_empty(), is_enough, "{toleration}: {found}");
        }
    }

    #[test]
    fn a_cordoned_node_takes_only_who_tolerates_that() {
        let mut cordoned = node(json!([]));
        cordoned["spec"]["unschedulable"] = true.into();
        assert!(why(json!({}), &cordoned, &[]).contains("unschedulable"));
        let all = json!({"tolerations": [{"operator": "Exists"}]});
        assert_eq!(why(all, &cordoned, &[]), "");
    }

    #[test]
    fn a_pod_stays_as_long_as_its_tolerations_say() {
        let now = DateTime::from_timestamp(1_000_000, 0).unwrap();
        let added = now - TimeDelta::seconds(10);
        let tainted = node(json!([{"key": "k", "effect": "NoExecute", "timeAdded": added.to_rfc3339()}]));
        let until = |tolerations: Value| stay(&pod(json!({"tolerations": tolerations})), &tainted, now);
        assert_eq!(until(json!([])), Stay::Until(added));
        assert_eq!(until(json!([{"key": "k", "operator": "Exists"}])), Stay::Forever);
        let ended = |seconds: i64| json!({"key": "k", "operator": "Exists", "tolerationSeconds": seconds});
        assert_eq!(until(json!([ended(60), ended(30)])), Stay::Until(added + TimeDelta::seconds(30)));
        assert_eq!(until(json!([ended(-5)])), Stay::Until(added));
        assert_eq!(stay(&pod(json!({})), &node(json!([])), now), Stay::Forever);
        let untimed = node(json!([{"key": "k", "effect": "NoExecute"}]));
        assert_eq!(stay(&pod(json!({})), &untimed, now), Stay::Until(now));
    }

    #[test]
    fn a_pod_names_the_nodes_that_it_can_do_with() {
        let plain = node(json!([]));
        let with = |terms: Value| {
            let required =
                json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
            why(json!({"affinity": {"nodeAffinity": required}}), &plain, &[]).is_empty()
        };
        let by = |key: &str, operator: &str, values: Value| json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]);
        assert!(with(by("cores", "In", json!(["4", "8"]))));
        assert!(!with(by("cores", "NotIn", json!(["8"]))));
        assert!(with(by("none", "NotIn", json!(["8"]))));
        assert!(with(by("cores", "Exists", json!([]))) && !with(by("cores", "DoesNotExist", json!([]))));
        assert!(with(by("cores", "Gt", json!(["7"]))) && !with(by("cores", "Lt", json!(["8"]))));
        assert!(!with(by("none", "Gt", json!(["7"]))) && !with(by("cores", "Gt", json!(["x"]))));
        assert!(!with(json!([{}])) && !with(json!([])), "what says nothing selects nothing");
        assert!(with(
            json!([{}, {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["box"]}]}])
        ));
    }

    #[test]
    fn pods_want_each_other_or_do_not() {
        let plain = node(json!([]));
        let term = |app: &str, key: &str| json!({"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}}]});
        let anti = |app, key| json!({"affinity": {"podAntiAffinity": term(app, key)}});
        let near = |app, key| json!({"affinity": {"podAffinity": term(app, key)}});
        let host = "kubernetes.io/hostname";
        let there = [pod(json!({}))];
        assert!(why(anti("a", host), &plain, &there).contains("pod anti-affinity rules"));
        assert_eq!(why(anti("a", host), &plain, &[]), "", "it does not shun itself");
        assert_eq!(why(anti("a", "no-such-label"), &plain, &there), "");
        assert_eq!(why(anti("b", host), &plain, &there), "");
        assert!(why(json!({}), &plain, &[pod(anti("a", host))]).contains("existing pods anti-affinity"));
        assert_eq!(why(near("a", host), &plain, &[]), "", "the first of its group");
        assert!(why(near("b", host), &plain, &there).contains("pod affinity rules"));
        let mut elsewhere = pod(json!({}));
        elsewhere["metadata"]["namespace"] = "m".into();
        assert_eq!(why(anti("a", host), &plain, &[elsewhere]), "");
    }

    #[test]
    fn who_must_be_spread_needs_a_topology() {
        let spread = |key: &str| json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule"}]});
        assert_eq!(why(spread("kubernetes.io/hostname"), &node(json!([])), &[pod(json!({}))]), "");
        assert!(why(spread("zone"), &node(json!([])), &[]).contains("missing required label"));
    }

    proptest! {
        /// Who tolerates everything is never kept away by a taint.
        #[test]
        fn a_toleration_of_all_suffices(taints in proptest::collection::vec(("[a-z]{1,3}", "[a-z]{0,3}", prop_oneof!["NoSchedule", "NoExecute"]), 0..5)) {
            let taints = taints.iter().map(|(key, value, effect)| json!({"key": key, "value": value, "effect": effect})).collect();
            let all = json!({"tolerations": [{"operator": "Exists"}]});
            prop_assert_eq!(why(all.clone(), &node(taints), &[]), "");
        }
    }
}
