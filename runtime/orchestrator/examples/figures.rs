//! What the API server costs: `tools/figures-k8s` runs it. Everything is in one process, over TLS on the loopback, with a store on the disk of
//! TMPDIR.
#![allow(clippy::unwrap_used, reason = "a measurement that fails has failed")]

#[path = "../tests/common/mod.rs"]
mod common;

use common::Server;
use common::wire::{Line, Wire};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Objects of the long list.
const MANY: usize = 5000;
/// Watchers of the fan-out, and writes that all of them see.
const WATCHERS: usize = 200;
const EVENTS: usize = 50;

fn map(name: &str) -> Value {
    // As large as a small Deployment.
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": "web"}}, "data": {"text": "x".repeat(1000)}})
}

/// Median and 99th percentile, milliseconds.
fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    format!("median {:.2} ms, 99 % {:.2} ms", at(0.5), at(0.99))
}

async fn time<F: Future>(times: &mut Vec<Duration>, what: F) -> F::Output {
    let start = Instant::now();
    let output = what.await;
    times.push(start.elapsed());
    output
}

async fn latency(line: &mut Line) {
    let (mut get, mut create, mut patch) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..300 {
        let name = format!("latency-{number}");
        let path = format!("{MAPS}/{name}");
        assert_eq!(time(&mut create, line.json("POST", MAPS, &map(&name))).await.0, 201);
        assert_eq!(time(&mut get, line.json("GET", &path, &Value::Null)).await.0, 200);
        assert_eq!(time(&mut patch, line.json("PATCH", &path, &json!({"data": {"a": "b"}}))).await.0, 200);
        line.json("DELETE", &path, &Value::Null).await;
    }
    println!("get                      {}", spread(get));
    println!("create (durable)         {}", spread(create));
    println!("patch (durable)          {}", spread(patch));
}

async fn writes(wire: &Wire, clients: usize) {
    let each = 600 / clients;
    let start = Instant::now();
    let mut writers = tokio::task::JoinSet::new();
    for client in 0..clients {
        let wire = wire.clone();
        writers.spawn(async move {
            let mut line = wire.line().await;
            for number in 0..each {
                let name = format!("w-{clients}-{client}-{number}");
                assert_eq!(line.json("POST", MAPS, &map(&name)).await.0, 201);
            }
        });
    }
    writers.join_all().await;
    println!(
        "writes of {clients:>2} clients     {:.0} a second",
        (each * clients) as f64 / start.elapsed().as_secs_f64()
    );
}

async fn list(wire: &Wire, server: &Server) {
    let mut line = wire.line().await;
    let there = server
        .engine
        .store()
        .list(vial_orchestrator::kinds::Kind::by_path("", "v1", "configmaps").unwrap(), "")
        .0
        .len();
    for number in there..MANY {
        assert_eq!(line.json("POST", MAPS, &map(&format!("l-{number}"))).await.0, 201);
    }
    let (mut times, mut size) = (Vec::new(), 0);
    for _ in 0..20 {
        let (code, body) = time(&mut times, line.ask("GET", MAPS, "", "")).await;
        assert_eq!(code, 200);
        size = body.len();
    }
    println!("list of {MANY} objects     {}, {:.1} MiB", spread(times), size as f64 / 1048576.0);
    let mut times = Vec::new();
    for _ in 0..20 {
        assert_eq!(time(&mut times, line.ask("GET", &format!("{MAPS}?limit=500"), "", "")).await.0, 200);
    }
    println!("its first 500            {}", spread(times));
}

async fn fan_out(wire: &Wire, server: &Server) {
    let version = server.engine.store().version();
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..WATCHERS {
        let mut line = wire.line().await;
        let path = format!("{MAPS}?watch=1&resourceVersion={version}");
        let mut body = line.open("GET", &path, "", "").await.into_body();
        readers.spawn(async move {
            let mut seen = 0;
            while seen < EVENTS {
                let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
                seen += data.iter().filter(|byte| **byte == b'\n').count();
            }
            drop(line);
        });
    }
    let mut line = wire.line().await;
    let start = Instant::now();
    for number in 0..EVENTS {
        assert_eq!(line.json("POST", MAPS, &map(&format!("f-{number}"))).await.0, 201);
    }
    let written = start.elapsed();
    readers.join_all().await;
    let all = (WATCHERS * EVENTS) as f64 / start.elapsed().as_secs_f64();
    let behind = start.elapsed() - written;
    println!(
        "{EVENTS} writes, {WATCHERS} watchers  {all:.0} events a second, the last {:.0} ms after the last write",
        behind.as_secs_f64() * 1e3
    );
}

/// Resident memory of this process, MiB: the server with the clients.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<f64>().unwrap() / 1024.0
}

fn main() {
    common::open_files(4096);
    let server = Server::start();
    let wire = Wire::to(&server);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        println!("memory at the start      {:.1} MiB", resident());
        latency(&mut wire.line().await).await;
        for clients in [1, 4, 16] {
            writes(&wire, clients).await;
        }
        list(&wire, &server).await;
        println!("memory with {MANY}       {:.1} MiB", resident());
        fan_out(&wire, &server).await;
        println!("memory at the end        {:.1} MiB", resident());
    });
}
