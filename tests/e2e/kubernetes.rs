//! Declared pods: a real kubectl, real VMs. What each field does is tested where it is decided; this is the way through all of it.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use tempfile::TempDir;
use vial_tests::host::{Ran, Vial, path, signal};

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

/// A kubectl and what it needs to reach this Vial.
struct Kubectl<'a> {
    vial: &'a Vial,
    program: PathBuf,
    config: PathBuf,
    /// Where it keeps what it has learnt of the server; not among what Vial has to clear away.
    home: TempDir,
}

impl<'a> Kubectl<'a> {
    /// None, when there is none on this machine.
    fn of(vial: &'a Vial) -> Option<Self> {
        let path_variable = std::env::var_os("PATH").unwrap_or_default();
        let program = std::env::split_paths(&path_variable)
            .map(|folder| folder.join("kubectl"))
            .find(|file| file.exists())?;
        let home = tempfile::tempdir().expect("a folder");
        let config = home.path().join("config");
        vial.run(["kubeconfig", "-o", path(&config)]).ok();
        Some(Self { vial, program, config, home })
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args(line.split_whitespace()).env("KUBECONFIG", &self.config).env("HOME", self.home.path());
        command
    }

    #[track_caller]
    fn run(&self, line: &str) -> Ran {
        self.vial.output(self.command(line))
    }

    /// Follows the pods until one line of them, in words, is as it should be; that line.
    fn until(&self, is_so: impl Fn(&[&str]) -> bool) -> String {
        let line = "get pods -l app=web -w --no-headers -o \
            custom-columns=N:.metadata.name,R:.status.containerStatuses[0].ready,C:.status.containerStatuses[0].restartCount,P:.status.phase";
        let mut child = self.command(line).stdout(Stdio::piped()).spawn().expect("kubectl runs");
        let pid = i32::try_from(child.id()).expect("a pid");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
        let found = self.vial.within_limit(pid, || {
            let mut lines = lines;
            lines.find(|line| {
                eprintln!("{line}");
                is_so(&line.split_whitespace().collect::<Vec<_>>())
            })
        });
        // It follows for ever.
        let _ = child.kill();
        let _ = child.wait();
        found.expect("it comes to be so")
    }
}

#[test]
fn a_deployment_runs_heals_outlives_the_daemon_rolls_and_leaves_nothing() {
    let vial = Vial::with_busybox();
    let Some(kubectl) = Kubectl::of(&vial) else {
        eprintln!("skipped: there is no kubectl here");
        return;
    };
    let file = kubectl.home.path().join("web.yaml");
    std::fs::write(&file, WEB).expect("a file");
    kubectl.run(&format!("apply -f {}", path(&file))).ok();
    let shown = kubectl.until(|words| words[1..] == ["true", "0", "Running"]);
    let pod = shown.split_whitespace().next().expect("a name").to_owned();
    assert_eq!(vial.vmm_pids().len(), 1, "one VM for all of it");

    // Seen by everybody, with what it was given.
    let all = vial.run(["ps", "--format", "{{.Names}}"]).ok();
    let container = all.lines().find(|name| name.contains(".web.")).expect("it is in vial ps").to_owned();
    assert_eq!(vial.run(["logs", &container]).ok(), format!("hello {pod} one\n"));

    // Ill, and started again.
    vial.run(["exec", &container, "rm", "/ok"]).ok();
    kubectl.until(|words| words == [pod.as_str(), "true", "1", "Running"]);

    // A daemon that is killed changes nothing for it.
    let before = vial.vmm_pids();
    signal(vial.daemon_pid().expect("it runs"), libc::SIGKILL);
    vial.run(["ps"]).ok();
    // Not with so many restarts: in a host this slow a probe may take too long once more.
    kubectl.until(|words| words[..2] == [pod.as_str(), "true"]);
    assert_eq!(vial.vmm_pids(), before, "neither another nor one more");

    // Another one in its place.
    kubectl.run("set env deployment/web GREETING=two").ok();
    kubectl.run("rollout status deployment/web --timeout=150s").ok();
    let events = kubectl.run("get events --no-headers").ok();
    for reason in ["Scheduled", "Started", "Unhealthy", "Killing", "SuccessfulCreate"] {
        assert!(events.contains(reason), "{reason} was told: {events}");
    }
    kubectl.run("delete deployment/web --cascade=foreground --timeout=100s").ok();
    assert_eq!(
        vial.run(["ps", "-a", "--format", "{{.Names}}"]).ok() + &vial.run(["pod", "ls", "-q"]).ok(),
        ""
    );
    vial.leaves_nothing();
}
