//! A Deployment under load: what somebody who asks its pods all the time sees of an update, of one that can't be had, and of the way back.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use vial_tests::declared::{Api, serves};
use vial_tests::host::Vial;
use vial_tests::kubectl::Kubectl;

/// No pod fewer than three while it rolls, one more at most.
const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: busybox:latest
        imagePullPolicy: IfNotPresent
        command: [sh, -c, 'mkdir /www; echo $(PAGE) >/www/page; exec httpd -f -p 80 -h /www']
        env: [{name: PAGE, value: one}]
        resources: {limits: {memory: 64Mi}}
        readinessProbe: {httpGet: {port: 80, path: /page}, periodSeconds: 1, timeoutSeconds: 30}
";

/// Between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(300);

/// What somebody saw who asked all the time.
#[derive(Debug, Default)]
struct Seen {
    answers: usize,
    pages: Vec<String>,
    /// The fewest pods that were ready at a time.
    least: usize,
    /// When nobody answered.
    misses: Vec<String>,
}

fn page(address: IpAddr) -> std::io::Result<String> {
    let patience = Duration::from_secs(20);
    let mut stream = TcpStream::connect_timeout(&(address, 80).into(), patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(b"GET /page HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, page)) if head.contains(" 200 ") => Ok(page.trim().to_owned()),
        _ => Err(std::io::Error::other(answer)),
    }
}

fn ask_all_the_time(api: &Api<'_>, end: &AtomicBool) -> Seen {
    let mut seen = Seen { least: usize::MAX, ..Seen::default() };
    while !end.load(Ordering::Relaxed) {
        let pods = api.list("/api/v1/namespaces/default/pods?labelSelector=app%3Dweb").expect("a list");
        let ready: Vec<IpAddr> = pods
            .iter()
            .filter(|pod| serves(pod))
            .map(|pod| pod["status"]["podIP"].as_str().and_then(|ip| ip.parse().ok()).expect("an address"))
            .collect();
        seen.least = seen.least.min(ready.len());
        // One that was told to go since may refuse; the next one answers then.
        let asked: Vec<_> = ready.iter().map(|address| page(*address)).collect();
        match asked.iter().find_map(|answer| answer.as_ref().ok()) {
            None => seen.misses.push(format!("{ready:?}: {asked:?}")),
            Some(_) => seen.answers += asked.iter().filter(|answer| answer.is_ok()).count(),
        }
        for page in asked.into_iter().flatten() {
            if !seen.pages.contains(&page) {
                seen.pages.push(page);
            }
        }
        // Some processor time for those who are asked: the emulated host has one.
        std::thread::sleep(PAUSE);
    }
    seen
}

#[test]
#[ignore = "long: VIAL_E2E_LONG=1 tools/test --e2e kubernetes"]
fn a_rollout_is_not_noticed_and_one_to_nothing_stops_and_is_undone() {
    let vial = Vial::with_busybox();
    let Some(kubectl) = Kubectl::of(&vial) else {
        eprintln!("skipped: there is no kubectl here");
        return;
    };
    let api = Api::of(&vial);
    kubectl.apply(WEB);
    kubectl.run("rollout status deployment/web --timeout=400s").ok();
    let end = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let asking = scope.spawn(|| ask_all_the_time(&api, &end));
        // Whoever asks ends with the test, also when it fails.
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| roll(&kubectl)));
        end.store(true, Ordering::Relaxed);
        let seen = asking.join().expect("who asks does not panic");
        told.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        seen
    });
    println!("{seen:?}");
    assert!(seen.misses.is_empty(), "nobody answered: {:?}", seen.misses);
    assert_eq!(seen.least, 3, "as many as before were ready at each moment");
    assert_eq!(seen.pages, ["one", "two"], "of {} answers", seen.answers);
    kubectl.run("delete deployment/web --cascade=foreground --timeout=400s").ok();
    assert_eq!(vial.run(["pod", "ls", "-q"]).ok(), "");
    vial.leaves_nothing();
}

fn roll(kubectl: &Kubectl<'_>) {
    kubectl.run("set env deployment/web PAGE=two").ok();
    kubectl.run("rollout status deployment/web --timeout=400s").ok();

    // A registry that nobody runs. One pod waits for it, and the others stay.
    kubectl.run("set image deployment/web web=127.0.0.1:9/none:1").ok();
    let reason = "N:.metadata.name,R:.status.containerStatuses[0].state.waiting.reason";
    let line = kubectl.until("app=web", reason, |words| words[1] == "ImagePullBackOff");
    let bad = line.split_whitespace().next().expect("a name");
    let shown = kubectl.run("get pods --no-headers").ok();
    let of = |word: &str| shown.lines().filter(|line| line.contains(word)).count();
    assert_eq!((shown.lines().count(), of("ImagePullBackOff"), of("1/1")), (4, 1, 3), "{shown}");
    let described = kubectl.run(&format!("describe pod {bad}")).ok();
    for why in ["Pulling image \"127.0.0.1:9/none:1\"", "Failed to pull image", "onnection refused"] {
        assert!(described.contains(why), "{why} is told: {described}");
    }
    kubectl.run("rollout undo deployment/web").ok();
    kubectl.run("rollout status deployment/web --timeout=400s").ok();
    let shown = kubectl
        .run("get pods --no-headers -o custom-columns=N:.metadata.name,I:.spec.containers[0].image")
        .ok();
    assert!(!shown.contains(bad), "it went: {shown}");
    assert_eq!(shown.matches("busybox:latest").count(), 3, "{shown}");
}
