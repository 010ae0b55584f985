//! Real kubectls against the real server: each version that is on this machine. Without any the tests say so and pass.
#![allow(clippy::unwrap_used, reason = "what fails here has failed")]

use chrono::{DateTime, Utc};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use tempfile::TempDir;
use vial_orchestrator::engine::{Engine, World};
use vial_orchestrator::http;
use vial_orchestrator::store::{SealKey, Store};
use vial_orchestrator::tls::Authority;

struct Real;

impl World for Real {
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }

    fn random(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let mut file = std::fs::File::open("/dev/urandom").unwrap();
        std::io::Read::read_exact(&mut file, &mut bytes).unwrap();
        bytes
    }
}

/// A server in a thread, and a kubeconfig for it.
struct Server {
    folder: TempDir,
    kubeconfig: PathBuf,
    address: String,
}

impl Server {
    fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let key = SealKey::at(&folder.path().join("seal.key")).unwrap();
        let engine =
            Engine::new(Store::open(&folder.path().join("objects.db"), key).unwrap(), Arc::new(Real));
        engine.bootstrap().unwrap();
        let authority = Authority::at(folder.path()).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let tls = authority.server(&[address.ip()]).unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, authority.client("admin").unwrap().kubeconfig(&address.to_string()))
            .unwrap();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async move {
                http::serve(tokio::net::TcpListener::from_std(listener).unwrap(), tls, engine).await
            });
        });
        Self { folder, kubeconfig, address: address.to_string() }
    }

    /// Runs a line; what it printed on both streams, and whether it worked.
    fn run(&self, kubectl: &Path, line: &str, input: &str) -> (bool, String) {
        let mut child = Command::new(kubectl)
            .args(line.split_whitespace())
            .env_clear()
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", self.folder.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A kubectl that does not read its input closes it.
        let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.success(), text(output.stdout) + &text(output.stderr))
    }
}

/// `kubectl` on the PATH and its siblings of other versions.
fn kubectls() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> = std::env::split_paths(&path)
        .filter_map(|folder| std::fs::canonicalize(folder.join("kubectl")).ok())
        .flat_map(|kubectl| {
            let folder = kubectl.parent().map(Path::to_owned).unwrap_or_default();
            let siblings =
                std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
            let is_kubectl = |path: &PathBuf| {
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("kubectl.1."))
            };
            let others: Vec<PathBuf> = siblings.filter(is_kubectl).collect();
            if others.is_empty() { vec![kubectl] } else { others }
        })
        .collect();
    found.sort();
    found.dedup();
    if found.is_empty() {
        eprintln!("skipped: there is no kubectl here");
    }
    found
}

const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: from-file\n  labels: {app: web}\ndata:\n  key: one\n";
const CRON: &str = "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: cj}\nspec:\n  schedule: '@daily'\n  jobTemplate:\n    spec:\n      template:\n        \
    spec: {restartPolicy: Never, containers: [{name: c, image: busybox}]}\n";
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
