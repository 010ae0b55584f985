//! `podFailurePolicy`: what the failure of a pod means, by its containers' exit codes and its conditions.

use crate::object;
use serde_json::Value;

/// What a failure means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It counts towards `backoffLimit`.
    Count,
    /// It does not.
    Ignore,
    /// It ends the job, for this reason.
    Fail(String),
}

/// The first rule that fits; without one a failure counts.
pub(super) fn judge(job: &Value, pod: &Value) -> Verdict {
    for (index, rule) in object::list(job, &["spec", "podFailurePolicy", "rules"]).iter().enumerate() {
        let Some(what) = codes(rule, pod).or_else(|| conditions(rule, pod)) else { continue };
        return match object::text(rule, &["action"]) {
            "FailJob" => Verdict::Fail(format!("{what} matching FailJob rule at index {index}")),
            "Ignore" => Verdict::Ignore,
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

fn codes(rule: &Value, pod: &Value) -> Option<String> {
    let wish = rule.get("onExitCodes")?;
    let (name, operator) = (object::text(wish, &["containerName"]), object::text(wish, &["operator"]));
    let values = object::list(wish, &["values"]);
    let containers =
        ["initContainerStatuses", "containerStatuses"].map(|list| object::list(pod, &["status", list]));
    containers.into_iter().flatten().find_map(|container| {
        let own = object::text(container, &["name"]);
        let code =
            object::number(container, &["state", "terminated", "exitCode"]).filter(|code| *code != 0)?;
        let is_in = values.contains(&code.into());
        let fits = (name.is_empty() || name == own) && if operator == "In" { is_in } else { !is_in };
        let (namespace, pod) = (object::namespace(pod), object::name(pod));
        fits.then(|| format!("Container {own} for pod {namespace}/{pod} failed with exit code {code}"))
    })
}

fn conditions(rule: &Value, pod: &Value) -> Option<String> {
    let found = object::list(pod, &["status", "conditions"]);
    object::list(rule, &["onPodConditions"]).iter().find_map(|wish| {
        let kind = object::text(wish, &["type"]);
        let status =
            Some(object::text(wish, &["status"])).filter(|status| !status.is_empty()).unwrap_or("True");
        let fits = found.iter().any(|one| one["type"] == kind && one["status"] == status);
        let (namespace, pod) = (object::namespace(pod), object::name(pod));
        fits.then(|| format!("Pod {namespace}/{pod} has condition {kind}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_rule_that_fits_says_what_a_failure_means() {
        let job = json!({"spec": {"podFailurePolicy": {"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42]}},
            {"action": "Count", "onExitCodes": {"operator": "NotIn", "values": [1]}},
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1]}},
        ]}}});
        let pod = |name: &str, code: i64| json!({"metadata": {"namespace": "n", "name": "p"}, "status": {"containerStatuses": [{"name": name, "state": {"terminated": {"exitCode": code}}}]}});
        assert_eq!(judge(&job, &pod("main", 3)), Verdict::Count);
        assert_eq!(judge(&job, &pod("other", 42)), Verdict::Count);
        let why = "Container main for pod n/p failed with exit code 42 matching FailJob rule at index 1";
        assert_eq!(judge(&job, &pod("main", 42)), Verdict::Fail(why.into()));
        assert!(matches!(judge(&job, &pod("other", 1)), Verdict::Fail(_)));
        assert_eq!(
            judge(&job, &json!({"status": {"conditions": [{"type": "DisruptionTarget", "status": "True"}]}})),
            Verdict::Ignore
        );
        assert_eq!(judge(&json!({}), &pod("main", 1)), Verdict::Count);
    }
}
