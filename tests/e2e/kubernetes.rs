//! Declared pods: a real kubectl, real VMs. What each field does is tested where it is decided; this is the way through all of it.

use vial_tests::fixtures;
use vial_tests::host::{Vial, path, signal};
use vial_tests::kubectl::Kubectl;

const WEB: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: words}
data: {word: hello}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      initContainers:
      - name: first
        image: busybox:latest
        imagePullPolicy: Never
        command: [sh, -c, 'cp /etc/words/word /work/word']
        volumeMounts: [{name: words, mountPath: /etc/words}, {name: work, mountPath: /work}]
      containers:
      - name: web
        image: busybox:latest
        imagePullPolicy: Never
        command: [sh, -c, 'cat /work/word; echo \" $(POD) $(GREETING)\"; mkdir /www; echo page >/www/page; touch /ok; exec httpd -f -p 80 -h /www']
        env:
        - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: GREETING, value: one}
        volumeMounts: [{name: work, mountPath: /work}]
        resources: {limits: {memory: 64Mi}}
        securityContext: {capabilities: {drop: [MKNOD]}, allowPrivilegeEscalation: false}
        readinessProbe: {httpGet: {port: 80, path: /page}, periodSeconds: 1}
        startupProbe: {exec: {command: [cat, /ok]}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 100}
        livenessProbe: {exec: {command: [cat, /ok]}, periodSeconds: 2, timeoutSeconds: 30, failureThreshold: 1}
      volumes: [{name: words, configMap: {name: words}}, {name: work, emptyDir: {}}]
";

/// Name, readiness, restarts and phase.
const COLUMNS: &str = "N:.metadata.name,R:.status.containerStatuses[0].ready,C:.status.containerStatuses[0].restartCount,P:.status.phase";

#[test]
fn a_deployment_runs_heals_outlives_the_daemon_rolls_and_leaves_nothing() {
    let vial = Vial::with_busybox();
    let Some(kubectl) = Kubectl::of(&vial) else {
        eprintln!("skipped: there is no kubectl here");
        return;
    };
    kubectl.apply(WEB);
    let until = |is_so: &dyn Fn(&[&str]) -> bool| kubectl.until("app=web", COLUMNS, is_so);
    let shown = until(&|words| words[1..] == ["true", "0", "Running"]);
    let pod = shown.split_whitespace().next().expect("a name").to_owned();
    assert_eq!(vial.vmm_pids().len(), 1, "one VM for all of it");

    // Seen by everybody, with what it was given.
    let all = vial.run(["ps", "--format", "{{.Names}}"]).ok();
    let container = all.lines().find(|name| name.contains(".web.")).expect("it is in vial ps").to_owned();
    assert_eq!(vial.run(["logs", &container]).ok(), format!("hello {pod} one\n"));

    // Ill, and started again.
    vial.run(["exec", &container, "rm", "/ok"]).ok();
    until(&|words| words == [pod.as_str(), "true", "1", "Running"]);

    // A daemon that is killed changes nothing for it.
    let before = vial.vmm_pids();
    signal(vial.daemon_pid().expect("it runs"), libc::SIGKILL);
    vial.run(["ps"]).ok();
    // Not with so many restarts: in a host this slow a probe may take too long once more.
    until(&|words| words[..2] == [pod.as_str(), "true"]);
    assert_eq!(vial.vmm_pids(), before, "neither another nor one more");

    // Another one in its place.
    kubectl.run("set env deployment/web GREETING=two").ok();
    kubectl.run("rollout status deployment/web --timeout=400s").ok();
    let events = kubectl.run("get events --no-headers").ok();
    for reason in ["Scheduled", "Started", "Unhealthy", "Killing", "SuccessfulCreate"] {
        assert!(events.contains(reason), "{reason} was told: {events}");
    }
    kubectl.run("delete deployment/web --cascade=foreground --timeout=400s").ok();
    assert_eq!(
        vial.run(["ps", "-a", "--format", "{{.Names}}"]).ok() + &vial.run(["pod", "ls", "-q"]).ok(),
        ""
    );
    vial.leaves_nothing();
}

/// More than boot at a time, so that most wait for their turn.
const CROWD: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: crowd}
spec:
  replicas: 12
  selector: {matchLabels: {app: crowd}}
  template:
    metadata: {labels: {app: crowd}}
    spec:
      containers:
      - {name: c, image: 'busybox:latest', imagePullPolicy: Never, command: [sleep, '1000'], resources: {limits: {memory: 32Mi}}}
";

#[test]
fn pods_that_are_deleted_before_it_is_their_turn_never_start() {
    let vial = Vial::with_busybox();
    let Some(kubectl) = Kubectl::of(&vial) else {
        eprintln!("skipped: there is no kubectl here");
        return;
    };
    kubectl.apply(CROWD);
    kubectl.until("app=crowd", "N:.spec.nodeName", |words| words != ["<none>"]);
    kubectl.run("delete deployment/crowd --cascade=foreground --timeout=400s").ok();
    let started = kubectl.run("get events --field-selector=reason=Started -o name").ok();
    // Those who had their turn may have been faster than the deletion.
    assert!(started.lines().count() < 6, "{started}");
    assert_eq!(vial.run(["pod", "ls", "-q"]).ok(), "");
    vial.leaves_nothing();
}

const EARLY: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: early}
spec:
  replicas: 3
  selector: {matchLabels: {app: early}}
  template:
    metadata: {labels: {app: early}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: c, image: 'busybox:latest', imagePullPolicy: Never, command: [sleep, '1000'], resources: {limits: {memory: 32Mi}}}
";

/// That the image is missing is known long before there is a VM, so that start is given up in the middle.
#[test]
fn pods_whose_image_comes_later_start_then() {
    let vial = Vial::new();
    let Some(kubectl) = Kubectl::of(&vial) else {
        eprintln!("skipped: there is no kubectl here");
        return;
    };
    kubectl.apply(EARLY);
    let why = "N:.status.containerStatuses[*].state.waiting.reason";
    kubectl.until("app=early", why, |words| words == ["ErrImageNeverPull"]);
    vial.run(["load", "-q", "-i", path(&fixtures::busybox())]).ok();
    kubectl.run("rollout status deployment/early --timeout=400s").ok();
    kubectl.run("delete deployment/early --cascade=foreground --timeout=400s").ok();
    vial.leaves_nothing();
}
