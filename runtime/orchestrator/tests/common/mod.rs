//! A server for tests of clients, and the clients that this machine has.
#![allow(dead_code, reason = "each test uses what it needs of it")]

pub mod wire;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use tempfile::TempDir;
use vial_orchestrator::engine::{Engine, RealWorld, World};
use vial_orchestrator::http;
use vial_orchestrator::http::metrics::{Answer, Metrics, PodUsage, Usage};
use vial_orchestrator::http::streams::{NoStreams, Streams};
use vial_orchestrator::store::{SealKey, Store};
use vial_orchestrator::tls::Authority;

/// A server in a thread, and a kubeconfig for it.
pub struct Server {
    pub folder: TempDir,
    pub kubeconfig: PathBuf,
    pub address: String,
    pub engine: Engine,
}

impl Server {
    pub fn start() -> Self {
        Self::start_with(Arc::new(NoStreams))
    }

    pub fn start_with(streams: Arc<dyn Streams>) -> Self {
        Self::start_in(Arc::new(RealWorld::default()), streams)
    }

    pub fn start_in(world: Arc<dyn World>, streams: Arc<dyn Streams>) -> Self {
        Self::start_for(world, streams, http::connections(None))
    }

    /// For so many connections at a time.
    pub fn start_for(world: Arc<dyn World>, streams: Arc<dyn Streams>, connections: usize) -> Self {
        let folder = TempDir::new().unwrap();
        let key = SealKey::at(&folder.path().join("seal.key")).unwrap();
        let engine = Engine::new(Store::open(&folder.path().join("objects.db"), key).unwrap(), world);
        engine.bootstrap().unwrap();
        let authority = Authority::at(folder.path()).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let tls = authority.server(&[address.ip()]).unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, authority.client("admin").unwrap().kubeconfig(&address.to_string()))
            .unwrap();
        let (serving, measured) = (engine.clone(), engine.clone());
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                http::serve(listener, tls, serving, streams, Arc::new(Measured(measured)), connections).await
            });
        });
        Self { folder, kubeconfig, address: address.to_string(), engine }
    }

    /// Runs a line; what it printed on both streams, and whether it worked.
    pub fn run(&self, kubectl: &Path, line: &str, input: &str) -> (bool, String) {
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
pub fn kubectls() -> Vec<PathBuf> {
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

/// What a test's machine uses: each pod that is declared the same.
struct Measured(Engine);

impl Metrics for Measured {
    fn pods(&self) -> Answer<'_, Vec<PodUsage>> {
        let kind = vial_orchestrator::kinds::Kind::by_path("", "v1", "pods").unwrap();
        let pods = self.0.store().list(kind, "").0;
        let uid = |pod: &Value| pod["metadata"]["uid"].as_str().unwrap().to_owned();
        let one = move |pod: &Value| PodUsage {
            uid: uid(pod),
            containers: vec![("c".into(), usage(250_000_000, 64 << 20))],
        };
        Box::pin(async move { pods.iter().map(|pod| one(&pod.object)).collect() })
    }

    fn machine(&self) -> Answer<'_, Option<Usage>> {
        Box::pin(async { Some(usage(1_500_000_000, 3 << 30)) })
    }
}

fn usage(nanocores: u64, bytes: u64) -> Usage {
    let at = vial_orchestrator::chrono::DateTime::UNIX_EPOCH;
    Usage { nanocores, bytes, window: std::time::Duration::from_secs(1), at }
}

/// Raises the number of open files, if it is less; what may be open now, and what at most (none: no limit).
pub fn open_files(needed: u64) -> (Option<u64>, Option<u64>) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < needed) && maximum.is_none_or(|maximum| maximum >= needed) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum }).unwrap();
    }
    (current, maximum)
}
