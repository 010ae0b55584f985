//! Clients that say what makes no sense, too much, or nothing: each is answered, and nobody else notices.
#![allow(clippy::unwrap_used, reason = "what fails here has failed")]

mod common;

use common::Server;
use common::wire::{Line, Wire};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use vial_orchestrator::chrono;
use vial_orchestrator::engine::{RealWorld, World};
use vial_orchestrator::http::streams::NoStreams;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str, size: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"x": "x".repeat(size)}})
}

/// What is answered to somebody who is wrong: a Status that says so.
fn check(code: u16, body: &[u8], what: &str) {
    assert!((200..500).contains(&code), "{what}: {code} {}", String::from_utf8_lossy(body));
    if code >= 400 {
        let status: Value = serde_json::from_slice(body).unwrap_or_else(|_| panic!("{what}: no JSON"));
        assert_eq!((&status["kind"], &status["code"]), (&"Status".into(), &code.into()), "{what}");
        assert!(
            status["message"].as_str().is_some_and(|message| !message.is_empty() && message.len() < 10_000),
            "{what}"
        );
    }
}

/// A world whose clock can be held: who looks at it waits, and is counted.
struct Held {
    is_held: Mutex<bool>,
    released: Condvar,
    waiting: watch::Sender<usize>,
    real: RealWorld,
}

impl Held {
    fn hold(&self, is_held: bool) {
        *self.is_held.lock().unwrap() = is_held;
        self.released.notify_all();
    }
}

impl World for Held {
    fn now(&self) -> chrono::DateTime<chrono::Utc> {
        let is_held = self.is_held.lock().unwrap();
        if *is_held {
            self.waiting.send_modify(|waiting| *waiting += 1);
        }
        drop(self.released.wait_while(is_held, |is_held| *is_held).unwrap());
        self.real.now()
    }

    fn random(&self) -> [u8; 16] {
        self.real.random()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_take_long_hold_no_question_up() {
    let world = Arc::new(Held {
        is_held: Mutex::new(false),
        released: Condvar::new(),
        waiting: watch::Sender::new(0),
        real: RealWorld::default(),
    });
    let server = Server::start_in(Arc::clone(&world) as Arc<dyn World>, Arc::new(NoStreams));
    let wire = Wire::to(&server);
    let mut question = wire.line().await;
    let writers = 4;
    let mut writes = Vec::new();
    for number in 0..writers {
        let mut line = wire.line().await;
        assert_eq!(line.json("POST", MAPS, &map(&format!("m{number}"), 1)).await.0, 201);
        writes.push(line);
    }
    world.hold(true);
    let writes: Vec<_> = writes
        .into_iter()
        .enumerate()
        .map(|(number, mut line)| {
            let path = format!("{MAPS}/m{number}");
            tokio::spawn(async move { line.json("DELETE", &path, &Value::Null).await.0 })
        })
        .collect();
    // More than the server has threads for answers.
    let mut waiting = world.waiting.subscribe();
    let stuck = async {
        waiting.wait_for(|waiting| *waiting == writers).await.unwrap();
        question.json("GET", "/version", &Value::Null).await.0
    };
    let answer = tokio::time::timeout(Duration::from_secs(60), stuck).await;
    world.hold(false);
    assert_eq!(answer, Ok(200));
    for write in writes {
        assert_eq!(write.await.unwrap(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_answers_every_body_and_goes_on() {
    let server = Server::start();
    let mut line = Wire::to(&server).line().await;
    assert_eq!(line.json("POST", MAPS, &map("there", 1)).await.0, 201);
    let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    let bomb = (1..30).fold(String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n"), |text, level| {
        let below = level - 1;
        text + &format!("a{level}: &a{level} [*a{below},*a{below},*a{below},*a{below},*a{below},*a{below}]\n")
    });
    let bodies: Vec<(&str, Vec<u8>)> = vec![
        ("application/json", b"".to_vec()),
        ("application/json", b"{".to_vec()),
        ("application/json", b"null".to_vec()),
        ("application/json", b"[1, 2]".to_vec()),
        ("application/json", b"\"text\"".to_vec()),
        ("application/json", b"{\"metadata\": 3}".to_vec()),
        ("application/json", b"{\"metadata\": {\"name\": \"../../etc\", \"labels\": {\"\": \"\"}}}".to_vec()),
        (
            "application/json",
            json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "there"}}).to_string().into(),
        ),
        (
            "application/json",
            json!({"metadata": {"name": "there", "resourceVersion": "999999999999999999999"}})
                .to_string()
                .into(),
        ),
        (
            "application/json",
            json!({"metadata": {"name": "there", "finalizers": ["no/good/name"], "ownerReferences": [{}]}})
                .to_string()
                .into(),
        ),
        (
            "application/json",
            json!({"metadata": {"name": "there", "managedFields": [{"fieldsV1": {"f:": {}}, "manager": 1}]}})
                .to_string()
                .into(),
        ),
        ("application/json", deep(200).into()),
        ("application/json", deep(100_000).into()),
        ("application/json", b"\xff\xfe\x00".to_vec()),
        ("application/json", vec![b'x'; (3 << 20) + 2]),
        ("application/json", map("there", (3 << 20) - 500).to_string().into()),
        ("application/yaml", b"a: [".to_vec()),
        ("application/yaml", bomb.into()),
        ("application/yaml", "? ".repeat(100_000).into()),
        ("application/yaml", "- ".repeat(1_000_000).into()),
        (
            "application/yaml",
            (0..2000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect::<String>().into(),
        ),
        ("application/vnd.kubernetes.protobuf", b"k8s\0".to_vec()),
        ("application/vnd.kubernetes.protobuf", [b"k8s\0".as_slice(), &[0x0a; 3000]].concat()),
        ("text/plain", b"hello".to_vec()),
        ("multipart/form-data; boundary=x", b"--x".to_vec()),
        ("application/merge-patch+json", b"{\"metadata\": {\"name\": \"other\"}}".to_vec()),
        (
            "application/json-patch+json",
            b"[{\"op\": \"copy\", \"from\": \"\", \"path\": \"/data/x\"}]".to_vec(),
        ),
        ("application/json-patch+json", b"[{\"op\": \"remove\", \"path\": \"/metadata\"}]".to_vec()),
        ("application/strategic-merge-patch+json", b"{\"$patch\": \"delete\"}".to_vec()),
        (
            "application/strategic-merge-patch+json",
            b"{\"data\": {\"$setElementOrder/x\": 3, \"$retainKeys\": \"y\"}}".to_vec(),
        ),
        ("application/apply-patch+yaml", b"metadata: {name: there}\ndata: [1]\n".to_vec()),
    ];
    let paths = [
        MAPS.to_owned(),
        format!("{MAPS}/there"),
        format!("{MAPS}/there/status"),
        format!("{MAPS}/there?fieldValidation=Strict&fieldManager=t&force=maybe"),
        format!("{MAPS}?labelSelector=a%20in%20(&limit=-1&continue=%00&resourceVersion=x&watch=1"),
        format!("{MAPS}?fieldSelector=data.x=1&dryRun=Some&timeoutSeconds=1e9"),
        "/apis/batch/v1/namespaces/default/jobs".to_owned(),
        "/apis/apps/v1/namespaces/default/deployments/none/scale".to_owned(),
        "/api/v1/namespaces/none/pods".to_owned(),
        "/api/v1/nodes/%2e%2e%2f".to_owned(),
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews".to_owned(),
        "/api/v1/namespaces/default/secrets/%ff".to_owned(),
        "/api//v1///".to_owned(),
    ];
    for method in ["POST", "PUT", "PATCH", "DELETE", "GET", "OPTIONS", "BREW"] {
        for path in &paths {
            for (kind, body) in &bodies {
                // Deleting everything, and getting it again and again, is no mistake.
                if matches!(method, "DELETE" | "GET") && body.len() > 10_000
                    || method == "DELETE" && path.starts_with(MAPS)
                {
                    continue;
                }
                let (code, answer) = line.ask(method, path, kind, body.clone()).await;
                check(
                    code,
                    &answer,
                    &format!(
                        "{method} {path} {kind} {}",
                        String::from_utf8_lossy(&body[..body.len().min(60)])
                    ),
                );
            }
        }
    }
    let (code, there) = line.json("GET", &format!("{MAPS}/there"), &Value::Null).await;
    assert_eq!((code, &there["metadata"]["name"]), (200, &"there".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_that_says_something_twice_is_told_so() {
    let server = Server::start();
    let mut line = Wire::to(&server).line().await;
    assert_eq!(line.json("POST", MAPS, &map("a", 1)).await.0, 201);
    let twice = r#"{"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "1", "k": "2"}}"#;
    let yaml = "apiVersion: v1\nkind: ConfigMap\ndata:\n  k: \"1\"\n  k: \"2\"\n";
    let operation = r#"[{"op": "add", "path": "/data/k", "value": "1", "value": "2"}]"#;
    for (kind, body, field) in [
        ("application/merge-patch+json", twice, "data.k"),
        ("application/strategic-merge-patch+json", twice, "data.k"),
        ("application/apply-patch+yaml", twice, "data.k"),
        ("application/apply-patch+yaml", yaml, "data.k"),
        ("application/json-patch+json", operation, "[0].value"),
    ] {
        let path = |mode: &str| format!("{MAPS}/a?fieldManager=t&force=true&fieldValidation={mode}");
        let (code, answer) = line.ask("PATCH", &path("Strict"), kind, body).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(code == 400 && answer.contains("strict decoding error"), "{kind}: {code} {answer}");
        let reply = line.open("PATCH", &path("Warn"), kind, body).await;
        let warning = reply.headers().get("warning").map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(reply.status(), 200, "{kind}");
        assert_eq!(warning, Some(format!(r#"299 - "duplicate field \"{field}\"""#)), "{kind}");
        reply.into_body().collect().await.unwrap();
        let reply = line.open("PATCH", &path("Ignore"), kind, body).await;
        assert!(reply.status() == 200 && reply.headers().get("warning").is_none(), "{kind}");
        reply.into_body().collect().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_want_what_there_is_hears_only_of_what_comes() {
    let server = Server::start();
    let wire = Wire::to(&server);
    let mut line = wire.line().await;
    assert_eq!(line.json("POST", MAPS, &map("old", 1)).await.0, 201);
    for version in ["", "&resourceVersion=0"] {
        let query =
            format!("{MAPS}?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan{version}");
        let watch = wire.line().await.open("GET", &query, "", "").await;
        assert_eq!(watch.status(), 200);
        assert_eq!(line.json("POST", MAPS, &map("new", 1)).await.0, 201);
        let first = watch.into_body().frame().await.unwrap().unwrap().into_data().unwrap();
        let event: Value = serde_json::from_slice(&first).unwrap();
        assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&"ADDED".into(), &"new".into()));
        assert_eq!(line.json("DELETE", &format!("{MAPS}/new"), &Value::Null).await.0, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_late_or_second_is_told() {
    let server = Server::start();
    let mut line = Wire::to(&server).line().await;
    let (_, made) = line.json("POST", MAPS, &map("a", 1)).await;
    assert_eq!(line.json("POST", MAPS, &map("a", 1)).await.1["reason"], "AlreadyExists");
    let path = format!("{MAPS}/a");
    let mut newer = made.clone();
    newer["data"]["x"] = "new".into();
    assert_eq!(line.json("PUT", &path, &newer).await.0, 200);
    assert_eq!(line.json("PUT", &path, &newer).await.1["reason"], "Conflict");
    let late =
        json!({"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "data": {"x": "late"}});
    assert_eq!(line.json("PATCH", &path, &late).await.1["reason"], "Conflict");
    let other = json!({"preconditions": {"uid": "another"}});
    assert_eq!(line.json("DELETE", &path, &other).await.1["reason"], "Conflict");
    let sets = "/apis/apps/v1/namespaces/default/deployments";
    let labels = json!({"app": "a"});
    let set = json!({"metadata": {"name": "a"}, "spec": {"selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "x"}]}}}});
    assert_eq!(line.json("POST", sets, &set).await.0, 201);
    let scale = json!({"metadata": {"name": "a", "uid": "another"}, "spec": {"replicas": 9}});
    for method in ["PUT", "PATCH"] {
        assert_eq!(line.json(method, &format!("{sets}/a/scale"), &scale).await.1["reason"], "Conflict");
    }
    // Twenty clients change one object at the same time, and each change is there in the end.
    let wire = Wire::to(&server);
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..20 {
        let (wire, path) = (wire.clone(), path.clone());
        writers.spawn(async move {
            let patch = json!({"data": {format!("k{number}"): "v"}});
            let mut line = wire.line().await;
            while line.json("PATCH", &path, &patch).await.0 == 409 {}
        });
    }
    writers.join_all().await;
    assert_eq!(line.json("GET", &path, &Value::Null).await.1["data"].as_object().unwrap().len(), 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_whose_body_breaks_off_deletes_nothing() {
    let server = Server::start();
    let wire = Wire::to(&server);
    let mut line = wire.line().await;
    for name in ["a", "b"] {
        assert_eq!(line.json("POST", MAPS, &map(name, 1)).await.0, 201);
    }
    let options = r#"{"kind":"DeleteOptions","dryRun":["All"]"#;
    for path in [MAPS.to_owned(), format!("{MAPS}/a")] {
        for rest in [
            format!("content-length: 200\r\n\r\n{options}"),
            format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n{options}\r\nzz\r\n", options.len()),
        ] {
            let mut raw = wire.connect().await;
            let head = "content-type: application/json\r\nhost: localhost\r\n";
            raw.write_all(format!("DELETE {path} HTTP/1.1\r\n{head}{rest}").as_bytes()).await.unwrap();
            raw.shutdown().await.unwrap();
            let mut answer = Vec::new();
            // Whether the answer still gets there is the connection's affair; its end is what is waited for.
            let _ = raw.read_to_end(&mut answer).await;
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{path} {rest}: {answer}");
        }
    }
    let (_, left) = line.json("GET", MAPS, &Value::Null).await;
    let names: Vec<_> =
        left["items"].as_array().unwrap().iter().map(|map| &map["metadata"]["name"]).collect();
    assert!(names.contains(&&"a".into()) && names.contains(&&"b".into()), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_certificate_takes_no_place_and_who_is_one_too_many_is_told() {
    let server = Server::start_for(Arc::new(RealWorld::default()), Arc::new(NoStreams), 1);
    let mut strangers = Vec::new();
    for _ in 0..100 {
        strangers.push(tokio::net::TcpStream::connect(&server.address).await.unwrap());
    }
    let wire = Wire::to(&server);
    let mut first = wire.line().await;
    assert_eq!(first.json("GET", MAPS, &Value::Null).await.0, 200);
    // The oldest were sent away, although they have said nothing wrong yet; the newest may still speak.
    assert_eq!(strangers[0].read(&mut [0]).await.unwrap_or_default(), 0);
    assert!(strangers[99].try_read(&mut [0]).is_err(), "nothing, and no end");
    let (code, status) = wire.line().await.json("GET", MAPS, &Value::Null).await;
    assert_eq!((code, &status["reason"]), (429, &"TooManyRequests".into()));
    assert_eq!(first.json("GET", MAPS, &Value::Null).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_no_later_write_could_name_is_refused() {
    let server = Server::start();
    let mut line = Wire::to(&server).line().await;
    let long = "x".repeat(129);
    for manager in ["a%09b", "a%00", &long] {
        let path = format!("{MAPS}?fieldManager={manager}");
        assert_eq!(line.json("POST", &path, &map("m", 1)).await.0, 400, "{manager}");
    }
    assert_eq!(line.json("POST", MAPS, &map("m", 1)).await.0, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_an_object_is_not_deleted() {
    let server = Server::start();
    let mut line = Wire::to(&server).line().await;
    let web = json!({"metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}}});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    assert_eq!(line.json("POST", deployments, &web).await.0, 201);
    assert_eq!(line.json("POST", "/api/v1/namespaces", &json!({"metadata": {"name": "x"}})).await.0, 201);
    for (object, parts) in [
        (format!("{deployments}/web"), ["status", "scale"]),
        ("/api/v1/namespaces/x".to_owned(), ["status", "finalize"]),
    ] {
        for part in parts {
            let (code, status) = line.json("DELETE", &format!("{object}/{part}"), &Value::Null).await;
            assert_eq!((code, &status["reason"]), (405, &"MethodNotAllowed".into()), "{object}/{part}");
        }
        let read = line.json("GET", "/api/v1/namespaces/x/finalize", &Value::Null).await;
        assert_eq!(read.0, 405, "it is only written");
        let (code, found) = line.json("GET", &object, &Value::Null).await;
        assert_eq!((code, &found["metadata"]["deletionTimestamp"]), (200, &Value::Null), "{object}");
    }
}

/// The next line of a watch.
async fn next(watch: &mut hyper::body::Incoming, rest: &mut Vec<u8>) -> Value {
    loop {
        if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            return serde_json::from_slice(&line).unwrap();
        }
        let frame = watch.frame().await.expect("the watch goes on").unwrap();
        rest.extend_from_slice(&frame.into_data().unwrap_or_default());
    }
}

async fn watch(line: &mut Line, query: &str) -> hyper::body::Incoming {
    let reply = line.open("GET", &format!("{MAPS}?watch=1{query}"), "", "").await;
    assert_eq!(reply.status(), 200);
    reply.into_body()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_a_watch_holds_nobody_up() {
    let server = Server::start();
    let wire = Wire::to(&server);
    let mut stuck = wire.connect().await;
    stuck
        .write_all(format!("GET {MAPS}?watch=1 HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let (mut reader, mut writer) = (wire.line().await, wire.line().await);
    let (mut body, mut rest) = (watch(&mut reader, "").await, Vec::new());
    // More than all buffers between the two hold.
    for number in 0..60 {
        assert_eq!(writer.json("POST", MAPS, &map(&format!("m{number}"), 300_000)).await.0, 201);
        assert_eq!(next(&mut body, &mut rest).await["object"]["metadata"]["name"], format!("m{number}"));
    }
    // It had only to begin to read: all is there, in order.
    let mut text = vec![0; 200];
    stuck.read_exact(&mut text).await.unwrap();
    assert!(String::from_utf8_lossy(&text).starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_watches_all_see_the_same() {
    const MANY: usize = 1000;
    // Both ends of each are in this process.
    let needed = 2 * MANY as u64 + 200;
    let (_, hard) = common::open_files(needed);
    if hard.is_some_and(|hard| hard < needed) {
        eprintln!("skipped: this process may not have {needed} open files");
        return;
    }
    let server = Server::start();
    let wire = Wire::to(&server);
    let mut lines = Vec::new();
    for _ in 0..MANY {
        let mut line = wire.line().await;
        let body = watch(&mut line, "").await;
        lines.push((line, body));
    }
    let mut writer = wire.line().await;
    assert_eq!(writer.json("POST", MAPS, &map("all", 1)).await.0, 201);
    for (_, body) in &mut lines {
        let event = tokio::time::timeout(Duration::from_secs(60), next(body, &mut Vec::new())).await.unwrap();
        assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&"ADDED".into(), &"all".into()));
    }
}
