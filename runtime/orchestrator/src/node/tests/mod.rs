//! Pods through their lives, by looks alone.

mod story;

use super::life::{Decision, Step, decide};
use super::observed::{Attempt, End, Health, Observed, Sandbox, State, Waiting};
use super::status::{Around, status};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

fn pod(policy: &str) -> Value {
    json!({"metadata": {"name": "p", "namespace": "default", "uid": "u"}, "spec": {"nodeName": "box", "restartPolicy": policy,
        "terminationGracePeriodSeconds": 30, "containers": [{"name": "a", "image": "x"}]}, "status": {"phase": "Pending"}})
}

fn attempt(number: u32, state: State) -> Attempt {
    let active = !matches!(state, State::Ended(_));
    Attempt {
        id: format!("id{number}"),
        number,
        failures: number,
        image: "x".into(),
        image_id: "sha256:1".into(),
        state,
        active,
        sandbox: None,
    }
}

fn ended(number: u32, code: i32, seconds: i64) -> Attempt {
    let end = End { code, started: Some(at(seconds - 1)), finished: Some(at(seconds)), ..End::default() };
    attempt(number, State::Ended(end))
}

fn running(number: u32) -> Attempt {
    attempt(number, State::Running { since: at(0) })
}

fn seen(container: &str, attempts: Vec<Attempt>) -> Observed {
    let sandbox = Sandbox::Running { since: at(-100), ips: vec!["10.0.0.2".parse().unwrap()] };
    let mut observed = Observed { sandbox, ..Observed::default() };
    observed.containers.insert(container.into(), attempts);
    observed
}

fn told(pod: &Value, observed: &Observed, seconds: i64) -> Value {
    status(pod, observed, Around { host_ip: "192.0.2.1", now: at(seconds) })
}

fn condition<'a>(status: &'a Value, kind: &str) -> &'a str {
    let all = status["conditions"].as_array().unwrap();
    all.iter().find(|one| one["type"] == kind).unwrap()["status"].as_str().unwrap()
}

/// The first makes the sandbox, the others are in the one that [`seen`] has.
fn start(number: u32) -> Step {
    let run = (number > 0).then(|| at(-100));
    Step::Start { container: "a".into(), number, failures: number, run }
}

#[test]
fn a_pod_is_started_once_and_told_running_and_ready() {
    let pod = pod("Always");
    let nothing = Observed::default();
    assert_eq!(decide(&pod, &nothing, at(0)).steps, [start(0)]);
    let status = told(&pod, &nothing, 0);
    assert_eq!(
        (status["phase"].as_str(), status["containerStatuses"][0]["state"]["waiting"]["reason"].as_str()),
        (Some("Pending"), Some("ContainerCreating"))
    );
    let busy = Observed { busy: ["a".to_owned()].into(), ..Observed::default() };
    assert_eq!(decide(&pod, &busy, at(0)), Decision::default());
    let mut there = seen("a", vec![running(0)]);
    assert_eq!(decide(&pod, &there, at(0)), Decision::default());
    assert_eq!(condition(&told(&pod, &there, 0), "Ready"), "False");
    there.health.insert("id0".into(), Health { started: true, ready: true, unhealthy: None });
    let status = told(&pod, &there, 0);
    assert_eq!(
        (status["phase"].as_str(), condition(&status, "Ready"), status["podIP"].as_str()),
        (Some("Running"), "True", Some("10.0.0.2"))
    );
    assert_eq!(status["containerStatuses"][0]["containerID"], "vial://id0");
    // A new daemon has asked nobody yet, and tells what was told.
    let mut again = pod.clone();
    again["status"] = status;
    there.health.clear();
    assert_eq!(condition(&told(&again, &there, 9), "Ready"), "True");
}

#[test]
fn what_fails_is_started_again_with_waits_that_grow() {
    let pod = pod("Always");
    let looks = |attempt: Attempt, seconds| decide(&pod, &seen("a", vec![attempt]), at(seconds));
    assert_eq!(looks(ended(0, 1, 5), 5).steps, [start(1)], "the first time at once");
    let second = looks(ended(1, 1, 5), 6);
    assert_eq!((second.steps.len(), second.again), (0, Some(at(15))));
    assert_eq!(looks(ended(1, 1, 5), 15).steps, [start(2)]);
    assert_eq!(looks(ended(2, 1, 5), 6).again, Some(at(25)));
    assert_eq!(looks(ended(40, 1, 5), 6).again, Some(at(305)), "no longer than five minutes");
    let mut lasting = ended(7, 1, 700);
    let State::Ended(end) = &mut lasting.state else { panic!() };
    end.started = Some(at(0));
    assert_eq!(
        looks(lasting, 700).steps,
        [Step::Start { container: "a".into(), number: 8, failures: 1, run: Some(at(-100)) }]
    );
    let status = told(&pod, &seen("a", vec![ended(1, 3, 5)]), 6);
    let container = &status["containerStatuses"][0];
    assert_eq!(container["state"]["waiting"]["reason"], "CrashLoopBackOff");
    assert_eq!(
        (&container["lastState"]["terminated"]["exitCode"], &container["restartCount"]),
        (&json!(3), &json!(1))
    );
    assert_eq!(status["phase"], "Running");
}

#[test]
fn the_policy_says_what_is_over() {
    for (policy, code, phase) in [
        ("Never", 0, "Succeeded"),
        ("Never", 1, "Failed"),
        ("OnFailure", 0, "Succeeded"),
        ("OnFailure", 1, "Running"),
        ("Always", 0, "Running"),
    ] {
        let pod = pod(policy);
        let observed = seen("a", vec![ended(0, code, 5)]);
        assert_eq!(told(&pod, &observed, 6)["phase"], phase, "{policy} {code}");
        let steps = decide(&pod, &observed, at(6)).steps;
        let expected = if phase == "Running" { start(1) } else { Step::StopSandbox };
        assert_eq!(steps, [expected], "{policy} {code}");
    }
    let mut killed = ended(0, 137, 5);
    let State::Ended(end) = &mut killed.state else { panic!() };
    end.oom = true;
    let status = told(&pod("Never"), &seen("a", vec![killed]), 6);
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["reason"], "OOMKilled");
}

#[test]
fn a_start_that_was_lost_with_its_daemon_is_made_up_for_whatever_the_policy() {
    for policy in ["Never", "OnFailure", "Always"] {
        let pod = pod(policy);
        let end = End { code: 125, is_lost_start: true, finished: Some(at(5)), ..End::default() };
        let observed = seen("a", vec![attempt(0, State::Ended(end))]);
        let again = Step::Start { container: "a".into(), number: 1, failures: 0, run: Some(at(-100)) };
        assert_eq!(decide(&pod, &observed, at(5)).steps, [again], "{policy}");
        assert_eq!(told(&pod, &observed, 5)["phase"], "Pending", "{policy}");
    }
}

#[test]
fn the_beginning_goes_in_order_and_sidecars_stay() {
    let mut pod = pod("Never");
    pod["spec"]["initContainers"] =
        json!([{"name": "i", "image": "x"}, {"name": "s", "image": "x", "restartPolicy": "Always"}]);
    let first = |decision: Decision| match &decision.steps[..] {
        [Step::Start { container, .. }] => container.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(first(decide(&pod, &Observed::default(), at(0))), "i");
    let mut observed = seen("i", vec![ended(0, 0, 5)]);
    assert_eq!(first(decide(&pod, &observed, at(6))), "s");
    let side = Attempt { id: "side".into(), ..running(0) };
    observed.containers.insert("s".into(), vec![side]);
    assert_eq!(decide(&pod, &observed, at(6)).steps, [], "it has not come up yet");
    assert_eq!(condition(&told(&pod, &observed, 6), "Initialized"), "False");
    observed.health.insert("side".into(), Health { started: true, ready: true, unhealthy: None });
    assert_eq!(first(decide(&pod, &observed, at(6))), "a");
    observed.containers.insert("a".into(), vec![ended(0, 0, 8)]);
    assert!(
        matches!(&decide(&pod, &observed, at(9)).steps[..], [Step::Stop { container, .. }] if container == "s")
    );
    assert_eq!(told(&pod, &observed, 9)["phase"], "Running", "its sidecar is still there");
    // A beginning that fails for good.
    let status = told(&pod, &seen("i", vec![ended(0, 1, 5)]), 6);
    assert_eq!(status["phase"], "Failed");
}

#[test]
fn a_lost_sandbox_begins_anew() {
    let mut pod = pod("Always");
    pod["spec"]["initContainers"] = json!([{"name": "i", "image": "x"}]);
    let mut observed = seen("i", vec![ended(0, 0, 5)]);
    observed.containers.insert("a".into(), vec![ended(0, 255, 8)]);
    observed.sandbox = Sandbox::Stopped;
    let steps = decide(&pod, &observed, at(9)).steps;
    assert!(
        matches!(&steps[..], [Step::Start { container, number: 1, .. }] if container == "i"),
        "{steps:?}"
    );
}

#[test]
fn a_clock_that_was_set_back_repeats_nothing_and_stops_nothing() {
    let mut pod = pod("Always");
    let crashed = seen("a", vec![ended(1, 1, 100_000)]);
    assert_eq!(decide(&pod, &crashed, at(0)), Decision { steps: vec![start(2)], again: None });
    let waiting = Waiting {
        reason: "ImagePullBackOff".into(),
        message: String::new(),
        since: at(3000),
        until: at(3010),
        failures: 1,
    };
    let waits = Observed { waiting: [("a".to_owned(), waiting)].into(), ..Observed::default() };
    assert_eq!(decide(&pod, &waits, at(0)).steps, [start(0)]);
    // Done in this run of the sandbox, whatever the clock says; and not in another.
    pod["spec"]["initContainers"] = json!([{"name": "i", "image": "x"}]);
    let next = |run: i64| {
        let done = Attempt { sandbox: Some(at(run)), ..ended(0, 0, -500) };
        match &decide(&pod, &seen("i", vec![done]), at(-499)).steps[..] {
            [Step::Start { container, .. }] => container.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((next(-100), next(-900)), ("a".to_owned(), "i".to_owned()));
}

#[test]
fn a_deleted_pod_is_ended_removed_and_let_go() {
    let mut pod = pod("Always");
    pod["metadata"]["deletionTimestamp"] = at(30).to_rfc3339().into();
    let mut observed = seen("a", vec![running(0)]);
    let steps = decide(&pod, &observed, at(10)).steps;
    assert!(
        matches!(&steps[..], [Step::Stop { grace, .. }] if *grace == TimeDelta::seconds(20)),
        "{steps:?}"
    );
    pod["metadata"]["deletionGracePeriodSeconds"] = 30.into();
    let steps = decide(&pod, &observed, at(-100_000)).steps;
    assert!(
        matches!(&steps[..], [Step::Stop { grace, .. }] if *grace == TimeDelta::seconds(30)),
        "{steps:?}: the clock was set back"
    );
    observed.containers.insert("a".into(), vec![ended(0, 143, 12)]);
    assert_eq!(decide(&pod, &observed, at(12)).steps, [Step::Remove]);
    assert_eq!(told(&pod, &observed, 12)["phase"], "Failed", "who waits for its end hears of it");
    assert_eq!(decide(&pod, &Observed::default(), at(12)).steps, [Step::Finalize]);
    // Once that is said nothing is left to do, whoever holds it.
    pod["metadata"]["deletionGracePeriodSeconds"] = 0.into();
    assert_eq!(decide(&pod, &Observed::default(), at(12)), Decision::default());
}

#[test]
fn a_deleted_pod_comes_to_an_end_that_is_told_whatever_it_was_doing() {
    let mut pod = pod("OnFailure");
    pod["metadata"]["deletionTimestamp"] = at(30).to_rfc3339().into();
    let phase =
        |pod: &Value, observed: &Observed| told(pod, observed, 10)["phase"].as_str().unwrap().to_owned();
    assert_eq!(phase(&pod, &seen("a", vec![running(0)])), "Running");
    assert_eq!(phase(&pod, &seen("a", vec![ended(0, 0, 9)])), "Succeeded");
    assert_eq!(phase(&pod, &seen("a", vec![ended(0, 143, 9)])), "Failed");
    assert_eq!(phase(&pod, &Observed::default()), "Failed", "it never began");
    let begins = Observed { busy: ["a".to_owned()].into(), ..Observed::default() };
    assert_eq!(phase(&pod, &begins), "Pending");
    // That is not forgotten with what ended.
    pod["status"] = told(&pod, &seen("a", vec![ended(0, 3, 9)]), 10);
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 3);
    assert_eq!(told(&pod, &Observed::default(), 11), pod["status"]);
}

#[test]
fn what_can_not_be_had_is_waited_for_and_the_ill_are_ended() {
    let pod = pod("Always");
    let waiting = Waiting {
        reason: "ImagePullBackOff".into(),
        message: "m".into(),
        since: at(0),
        until: at(10),
        failures: 1,
    };
    let observed = Observed { waiting: [("a".to_owned(), waiting)].into(), ..Observed::default() };
    let decision = decide(&pod, &observed, at(0));
    assert_eq!((decision.steps.len(), decision.again), (0, Some(at(10))));
    assert_eq!(
        told(&pod, &observed, 0)["containerStatuses"][0]["state"]["waiting"]["reason"],
        "ImagePullBackOff"
    );
    assert_eq!(decide(&pod, &observed, at(10)).steps, [start(0)]);
    let mut ill = seen("a", vec![running(0)]);
    ill.health.insert("id0".into(), Health { unhealthy: Some("liveness".into()), ..Health::default() });
    assert!(matches!(&decide(&pod, &ill, at(0)).steps[..], [Step::Stop { .. }]));
}

#[test]
fn a_gate_keeps_a_pod_from_being_ready_until_somebody_says_so() {
    let mut pod = pod("Always");
    pod["spec"]["readinessGates"] = json!([{"conditionType": "example.com/open"}]);
    let mut observed = seen("a", vec![running(0)]);
    observed.health.insert("id0".into(), Health { started: true, ready: true, unhealthy: None });
    let status = told(&pod, &observed, 1);
    assert_eq!((condition(&status, "ContainersReady"), condition(&status, "Ready")), ("True", "False"));
    pod["status"] = status;
    let said = json!({"type": "example.com/open", "status": "True"});
    pod["status"]["conditions"].as_array_mut().unwrap().push(said.clone());
    let status = told(&pod, &observed, 2);
    assert_eq!(condition(&status, "Ready"), "True");
    assert!(status["conditions"].as_array().unwrap().contains(&said), "what others say stays");
}

#[test]
fn another_image_takes_the_place_of_what_runs() {
    for policy in ["Always", "Never"] {
        let mut pod = pod(policy);
        pod["spec"]["containers"][0]["image"] = "y".into();
        let mut observed = seen("a", vec![running(0)]);
        let steps = decide(&pod, &observed, at(1)).steps;
        assert!(matches!(&steps[..], [Step::Stop { why, .. }] if why.contains("image")), "{steps:?}");
        observed.containers.insert("a".into(), vec![ended(0, 143, 2)]);
        assert_eq!(decide(&pod, &observed, at(3)).steps, [start(1)], "{policy}");
    }
}

#[test]
fn what_is_over_waits_for_nothing() {
    let mut pod = pod("Never");
    pod["spec"]["initContainers"] = json!([{"name": "side", "image": "x", "restartPolicy": "Always"}]);
    let mut observed = seen("a", vec![ended(0, 0, 5)]);
    observed.containers.insert("side".into(), vec![ended(0, 143, 6)]);
    let status = told(&pod, &observed, 10);
    assert_eq!(status["phase"], "Succeeded");
    assert_eq!(status["initContainerStatuses"][0]["state"]["terminated"]["exitCode"], 143);
}

#[test]
fn a_deadline_ends_a_pod() {
    let mut pod = pod("Always");
    pod["spec"]["activeDeadlineSeconds"] = 60.into();
    pod["status"]["startTime"] = at(0).to_rfc3339().into();
    let observed = seen("a", vec![running(0)]);
    assert_eq!(decide(&pod, &observed, at(1)).again, Some(at(60)));
    assert!(matches!(&decide(&pod, &observed, at(60)).steps[..], [Step::Stop { .. }]));
    assert_eq!(told(&pod, &observed, 60)["reason"], "DeadlineExceeded");
}
