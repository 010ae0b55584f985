//! Real kubectls against the real server: each version that is on this machine. Without any the tests say so and pass.
#![allow(clippy::unwrap_used, reason = "what fails here has failed")]

mod common;

use common::{Server, kubectls};
use std::process::Command;

const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: from-file\n  labels: {app: web}\ndata:\n  key: one\n";
const CRON: &str = "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: cj}\nspec:\n  schedule: '@daily'\n  jobTemplate:\n    spec:\n      template:\n        \
    spec: {restartPolicy: Never, containers: [{name: c, image: busybox}]}\n";
const NODE: &str = "apiVersion: v1\nkind: Node\nmetadata: {name: here}\n";
const WEB: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\nspec:\n  replicas: 2\n  selector: {matchLabels: {app: web}}\n  \
    template:\n    metadata: {labels: {app: web}}\n    spec:\n      containers:\n      - name: c\n        image: nginx:1\n        ports: [{containerPort: 80}]\n";

#[test]
fn every_kubectl_declares_shows_changes_and_removes_objects() {
    for kubectl in kubectls() {
        let server = Server::start();
        let version = kubectl.file_name().unwrap().to_string_lossy().into_owned();
        let expect = |line: &str, input: &str, expected: &str| {
            let (worked, output) = server.run(&kubectl, line, input);
            assert!(
                worked && output.contains(expected),
                "{version} {line}: {expected:?} is not in\n{output}"
            );
            output
        };
        let refuse = |line: &str, input: &str, expected: &str| {
            let (worked, output) = server.run(&kubectl, line, input);
            assert!(
                !worked && output.contains(expected),
                "{version} {line}: {expected:?} is not in\n{output}"
            );
        };
        expect("version", "", "1.33");
        expect("get namespaces", "", "kube-system");
        expect("create configmap one --from-literal=a=b", "", "configmap/one created");
        refuse("create configmap one --from-literal=a=b", "", "already exists");
        expect("create secret generic s --from-literal=password=x", "", "secret/s created");
        expect("create namespace other", "", "namespace/other created");
        expect("get cm", "", "one");
        expect("get cm one -o jsonpath={.data.a}", "", "b");
        expect("get secret s -o yaml", "", "password: eA==");
        expect("describe cm one", "", "a:");
        expect("apply -f -", MAP, "configmap/from-file created");
        expect("apply -f -", &MAP.replace("one", "two"), "configmap/from-file configured");
        expect("get cm -l app=web -o name", "", "configmap/from-file");
        expect("diff -f -", &MAP.replace("one", "two"), "");
        expect("apply --server-side -f -", &MAP.replace("from-file", "applied"), "serverside-applied");
        expect("label cm one x=y", "", "configmap/one labeled");
        expect("annotate cm one note=well", "", "configmap/one annotate");
        expect("patch cm one -p {\"data\":{\"c\":\"d\"}}", "", "configmap/one patched");
        expect("get cm one -o json", "", "\"c\": \"d\"");
        // Refused by those that ask for it; kubectl before 1.25 does not, and shows the warning.
        let (_, output) = server.run(
            &kubectl,
            "create -f -",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bad}\nfrob: 1\n",
        );
        assert!(output.contains("frob"), "{version}: {output}");
        refuse("get cm none", "", "NotFound");
        expect("delete cm one", "", "configmap \"one\" deleted");
        expect("delete cm --all", "", "deleted");
        expect("create deployment made --image=nginx", "", "deployment.apps/made created");
        expect("apply -f -", WEB, "deployment.apps/web created");
        expect("get deploy", "", "0/2");
        expect("get deploy web -o wide", "", "nginx:1");
        expect("scale deployment web --replicas=5", "", "deployment.apps/web scaled");
        expect("set image deployment/web c=nginx:2", "", "image updated");
        expect(
            "get deploy web -o jsonpath={.spec.replicas},{.spec.template.spec.containers[0].image}",
            "",
            "5,nginx:2",
        );
        expect("rollout restart deployment/web", "", "restarted");
        expect("describe deploy web", "", "25% max unavailable");
        refuse(
            "apply -f -",
            &WEB.replace("app: web}}\n  template", "app: other}}\n  template"),
            "field is immutable",
        );
        expect("get all", "", "deployment.apps/web");
        expect("api-resources", "", "deployments");
        expect("api-versions", "", "batch/v1");
        expect("auth can-i create pods", "", "yes");
        expect("create job j --image=busybox", "", "job.batch/j created");
        // kubectl before 1.21 makes CronJobs of batch/v1beta1, which is gone.
        expect("create -f -", CRON, "cronjob.batch/cj created");
        expect("get jobs,cronjobs", "", "@daily");
        expect("run p --image=busybox --dry-run=server -o name", "", "pod/p");
        expect("cluster-info", "", "is running at");
        expect("get services", "", "No resources found");
        refuse("create service clusterip s --tcp=80", "", "services are not supported yet");
        expect("create -f -", NODE, "node/here created");
        expect("top nodes", "", "1500m");
        expect("run p --image=busybox", "", "pod/p created");
        expect("top pods --containers", "", "250m");
        expect("top pod p", "", "64Mi");
        refuse("top pod none", "", "not found");
        expect("delete deployment web made --cascade=background", "", "deleted");
    }
}

#[test]
fn nothing_is_told_to_who_has_no_certificate() {
    let server = Server::start();
    let url = format!("https://{}/api/v1/namespaces", server.address);
    let Ok(output) = Command::new("curl").args(["-sk", &url]).output() else {
        eprintln!("skipped: there is no curl here");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("\"code\":401") && text.contains("vial kubeconfig"), "{text}");
}
