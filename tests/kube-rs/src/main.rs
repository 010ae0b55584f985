//! What kube-rs does with a server of declared objects and a pod that runs: usage: kube-rs-client (with KUBECONFIG set; needs the image busybox:1)
//!
//! Lists, watches, creates, patches, runs commands, follows a log, forwards a port, deletes. Says "all is well" at its end; each step has a limit.
//! It must know nothing of Vial.

use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::api::{
    AttachParams, DeleteParams, DynamicObject, ListParams, LogParams, Patch, PatchParams, PostParams,
    WatchEvent, WatchParams,
};
use kube::runtime::{WatchStreamExt, reflector, wait, watcher};
use kube::{Api, Client, ResourceExt, discovery};
use serde_json::json;
use std::error::Error;
use std::future::Future;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

type Done<T = ()> = Result<T, Box<dyn Error>>;

/// One step; ten times what it takes on a slow machine.
async fn step<T>(what: &str, work: impl Future<Output = Done<T>>) -> Done<T> {
    let done = tokio::time::timeout(Duration::from_secs(170), work).await;
    let done = done.map_err(|_| format!("{what}: it does not end"))?;
    let done = done.map_err(|error| format!("{what}: {error}"))?;
    println!("{what}");
    Ok(done)
}

fn expect(is_so: bool, what: impl std::fmt::Debug) -> Done {
    if is_so { Ok(()) } else { Err(format!("{what:?}").into()) }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Done {
    let client = Client::try_default().await?;
    step("discovers", discover(&client)).await?;
    step("lists, page by page", list(&client)).await?;
    step("patches in each way", patch(&client)).await?;
    step("watches and reflects", watch(&client)).await?;
    step("scales and restarts", scale(&client)).await?;
    let pods = Api::<Pod>::default_namespaced(client.clone());
    step("starts a pod", start(&pods)).await?;
    step("runs commands", exec(&pods)).await?;
    step("forwards a port", forward(&pods)).await?;
    step("follows a log to its end", log(&pods)).await?;
    step("deletes", delete(&client, &pods)).await?;
    println!("all is well");
    Ok(())
}

async fn discover(client: &Client) -> Done {
    let version = client.apiserver_version().await?;
    expect(version.major == "1", &version)?;
    let all = discovery::Discovery::new(client.clone()).run().await?;
    let mut kinds: Vec<String> =
        all.groups().flat_map(|group| group.recommended_resources()).map(|(kind, _)| kind.kind).collect();
    kinds.sort();
    for kind in ["ConfigMap", "CronJob", "Deployment", "Job", "Pod", "ReplicaSet", "Secret"] {
        expect(kinds.iter().any(|known| known == kind), &kinds)?;
    }
    // Without types: what tools that know nothing of a kind do.
    let group = discovery::group(client, "apps").await?;
    let (resource, _) = group.recommended_kind("Deployment").ok_or("no Deployment in apps")?;
    let any: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &resource);
    any.list(&ListParams::default()).await?;
    Ok(())
}

async fn list(client: &Client) -> Done {
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?;
    expect(nodes.items.len() == 1, &nodes)?;
    let maps = Api::<ConfigMap>::default_namespaced(client.clone());
    for number in 0..5 {
        let map = serde_json::from_value(
            json!({"metadata": {"name": format!("page-{number}"), "labels": {"page": "yes"}}}),
        )?;
        maps.create(&PostParams::default(), &map).await?;
    }
    let mut params = ListParams::default().labels("page=yes").limit(2);
    let mut names = Vec::new();
    loop {
        let page = maps.list(&params).await?;
        names.extend(page.items.iter().map(ResourceExt::name_any));
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params = params.continue_token(&token),
            _ => break,
        }
    }
    expect(names == ["page-0", "page-1", "page-2", "page-3", "page-4"], &names)?;
    let gone =
        maps.delete_collection(&DeleteParams::default(), &ListParams::default().labels("page=yes")).await?;
    println!(
        "  {}",
        gone.either(|list| format!("{} deleted", list.items.len()), |status| format!("{status:?}"))
    );
    expect(maps.get_opt("page-0").await?.is_none(), "it is still there")
}

async fn patch(client: &Client) -> Done {
    let maps = Api::<ConfigMap>::default_namespaced(client.clone());
    let applied =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "patched"}, "data": {"a": "1"}});
    let ours = PatchParams::apply("ours");
    maps.patch("patched", &ours, &Patch::Apply(&applied)).await?;
    let theirs = PatchParams::apply("theirs");
    let other =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "patched"}, "data": {"a": "2"}});
    match maps.patch("patched", &theirs, &Patch::Apply(&other)).await {
        Err(kube::Error::Api(status)) => expect(status.code == 409, &status)?,
        other => return Err(format!("a conflict is not told: {other:?}").into()),
    }
    maps.patch("patched", &theirs.force(), &Patch::Apply(&other)).await?;
    maps.patch("patched", &PatchParams::default(), &Patch::Merge(json!({"data": {"b": "3"}}))).await?;
    maps.patch("patched", &PatchParams::default(), &Patch::Strategic(json!({"data": {"c": "4"}}))).await?;
    let found = maps.get("patched").await?;
    let data: Vec<String> =
        found.data.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    expect(data == ["a=2", "b=3", "c=4"], &found)?;
    // Somebody was faster.
    let mut stale = found.clone();
    maps.patch("patched", &PatchParams::default(), &Patch::Merge(json!({"data": {"b": "5"}}))).await?;
    stale.data = None;
    match maps.replace("patched", &PostParams::default(), &stale).await {
        Err(kube::Error::Api(status)) => expect(status.code == 409, &status)?,
        other => return Err(format!("a lost update is not told: {other:?}").into()),
    }
    maps.delete("patched", &DeleteParams::default()).await?;
    Ok(())
}

async fn watch(client: &Client) -> Done {
    let maps = Api::<ConfigMap>::default_namespaced(client.clone());
    let seen = maps
        .list(&ListParams::default())
        .await?
        .metadata
        .resource_version
        .ok_or("a list without a version")?;
    let mut raw = maps.watch(&WatchParams::default().labels("seen=yes"), &seen).await?.boxed();
    let (reader, writer) = reflector::store();
    let reflected =
        watcher(maps.clone(), watcher::Config::default().streaming_lists()).default_backoff().reflect(writer);
    let mut reflected = reflected.boxed();
    let map = serde_json::from_value(json!({"metadata": {"name": "seen", "labels": {"seen": "yes"}}}))?;
    maps.create(&PostParams::default(), &map).await?;
    maps.delete("seen", &DeleteParams::default()).await?;
    let mut kinds = Vec::new();
    while kinds.len() < 2 {
        match raw.try_next().await?.ok_or("the watch ended")? {
            WatchEvent::Added(_) => kinds.push("added"),
            WatchEvent::Deleted(_) => kinds.push("deleted"),
            WatchEvent::Bookmark(_) => {}
            other => return Err(format!("{other:?}").into()),
        }
    }
    expect(kinds == ["added", "deleted"], &kinds)?;
    // The reflector's own list may have come before, between or after the two.
    let map = serde_json::from_value(json!({"metadata": {"name": "reflected"}}))?;
    maps.create(&PostParams::default(), &map).await?;
    while !reader.state().iter().any(|map| map.name_any() == "reflected") {
        reflected.try_next().await?.ok_or("the watcher ended")?;
    }
    maps.delete("reflected", &DeleteParams::default()).await?;
    Ok(())
}

async fn scale(client: &Client) -> Done {
    let deployments = Api::<Deployment>::default_namespaced(client.clone());
    let declared = json!({
        "metadata": {"name": "scaled"},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": "scaled"}},
            "template": {
                "metadata": {"labels": {"app": "scaled"}},
                "spec": {"nodeSelector": {"no": "such"}, "containers": [{"name": "c", "image": "busybox:1"}]},
            },
        },
    });
    deployments.create(&PostParams::default(), &serde_json::from_value(declared)?).await?;
    let scale = deployments.get_scale("scaled").await?;
    expect(scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0) == 0, &scale)?;
    deployments
        .patch_scale("scaled", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 2}})))
        .await?;
    let all_seen = |deployment: Option<&Deployment>| {
        deployment.and_then(|found| found.status.as_ref()).is_some_and(|status| status.replicas == Some(2))
    };
    wait::await_condition(deployments.clone(), "scaled", all_seen).await?;
    deployments.restart("scaled").await?;
    let uid = deployments.get("scaled").await?.metadata.uid.ok_or("no uid")?;
    deployments.delete("scaled", &DeleteParams::foreground()).await?;
    wait::await_condition(deployments, "scaled", wait::conditions::is_deleted(&uid)).await?;
    let left = Api::<Pod>::default_namespaced(client.clone())
        .list(&ListParams::default().labels("app=scaled"))
        .await?;
    expect(left.items.is_empty(), &left)
}

async fn start(pods: &Api<Pod>) -> Done {
    let script = "echo one; until [ -e /go ]; do nc -l -p 8080 -e cat; done; echo two; exit 3";
    let declared = json!({
        "metadata": {"name": "rs"},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "busybox:1", "command": ["sh", "-c", script]}]},
    });
    pods.create(&PostParams::default(), &serde_json::from_value(declared)?).await?;
    wait::await_condition(pods.clone(), "rs", wait::conditions::is_pod_running()).await?;
    Ok(())
}

async fn exec(pods: &Api<Pod>) -> Done {
    let mut ran = pods
        .exec(
            "rs",
            ["sh", "-c", "read line; echo got $line; echo err >&2; exit 7"],
            &AttachParams::default().stdin(true),
        )
        .await?;
    let (mut input, mut output, mut error) = (
        ran.stdin().ok_or("no standard input")?,
        ran.stdout().ok_or("no standard output")?,
        ran.stderr().ok_or("no standard error")?,
    );
    let status = ran.take_status().ok_or("no status")?;
    input.write_all(b"typed\n").await?;
    let (mut got, mut complained) = (String::new(), String::new());
    output.read_to_string(&mut got).await?;
    error.read_to_string(&mut complained).await?;
    expect((got.as_str(), complained.as_str()) == ("got typed\n", "err\n"), (&got, &complained))?;
    let status = status.await.ok_or("its end is not told")?;
    expect(format!("{status:?}").contains("\"7\""), &status)?;
    // At a terminal, of this size, which is told after the command has begun.
    let sized = "read go; until stty size 2>/dev/null | grep 97; do usleep 50000; done";
    let mut ran = pods.exec("rs", ["sh", "-c", sized], &AttachParams::interactive_tty()).await?;
    let mut size = ran.terminal_size().ok_or("no sizes")?;
    size.try_send(kube::api::TerminalSize { width: 97, height: 31 })?;
    let mut input = ran.stdin().ok_or("no standard input")?;
    let mut output = ran.stdout().ok_or("no standard output")?;
    input.write_all(b"go\n").await?;
    let mut seen = String::new();
    output.read_to_string(&mut seen).await?;
    expect(seen.contains("31 97"), &seen)
}

async fn forward(pods: &Api<Pod>) -> Done {
    for round in 0..2 {
        // Its server takes one connection and is started anew for the next.
        let listens = "until grep -qi ':1F90 .* 0A ' /proc/net/tcp /proc/net/tcp6; do usleep 50000; done";
        let mut ran = pods.exec("rs", ["sh", "-c", listens], &AttachParams::default()).await?;
        ran.take_status().ok_or("no status")?.await.ok_or("its end is not told")?;
        let mut ports = pods.portforward("rs", &[8080]).await?;
        let mut stream = ports.take_stream(8080).ok_or("no stream")?;
        let sent = format!("there and back {round}\n");
        stream.write_all(sent.as_bytes()).await?;
        let mut back = vec![0; sent.len()];
        stream.read_exact(&mut back).await?;
        expect(back == sent.as_bytes(), String::from_utf8_lossy(&back))?;
    }
    Ok(())
}

async fn log(pods: &Api<Pod>) -> Done {
    let params = LogParams { follow: true, ..LogParams::default() };
    let mut lines = pods.log_stream("rs", &params).await?.lines();
    let first = lines.try_next().await?;
    expect(first.as_deref() == Some("one"), &first)?;
    // It looks for the file when its client has gone.
    let mut ran = pods
        .exec("rs", ["sh", "-c", "touch /go; nc 127.0.0.1 8080 </dev/null"], &AttachParams::default())
        .await?;
    // Not `join`, which takes the end's being told for an error if it is told late.
    let status = ran.take_status().ok_or("no status")?;
    status.await.ok_or("its end is not told")?;
    let rest: Vec<String> = lines.try_collect().await?;
    expect(rest == ["two"], &rest)?;
    wait::await_condition(pods.clone(), "rs", |pod: Option<&Pod>| {
        pod.and_then(|pod| pod.status.as_ref())
            .is_some_and(|status| status.phase.as_deref() == Some("Failed"))
    })
    .await?;
    let tail = pods.logs("rs", &LogParams { tail_lines: Some(1), ..LogParams::default() }).await?;
    expect(tail == "two\n", &tail)
}

async fn delete(client: &Client, pods: &Api<Pod>) -> Done {
    let uid = pods.get("rs").await?.metadata.uid.ok_or("no uid")?;
    pods.delete("rs", &DeleteParams::default()).await?;
    wait::await_condition(pods.clone(), "rs", wait::conditions::is_deleted(&uid)).await?;
    match Api::<Pod>::default_namespaced(client.clone()).get("rs").await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}
