//! Jobs and CronJobs on real pods; when what is to be done is tested where it is decided.

use serde_json::{Value, json};
use vial_tests::declared::{Api, has};
use vial_tests::host::Vial;
use vial_tests::kubectl::Kubectl;
use vial_tests::talk;

const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// The pods' template, which each kind has at its own depth.
fn template(command: &str) -> String {
    format!(
        "{{spec: {{restartPolicy: Never, terminationGracePeriodSeconds: 1, containers: [{{name: c, image: 'busybox:latest', imagePullPolicy: Never, \
         command: [sh, -c, '{command}'], resources: {{limits: {{memory: 64Mi}}}}, \
         env: [{{name: STATUS, valueFrom: {{configMapKeyRef: {{name: words, key: status}}}}}}]}}]}}}}"
    )
}

fn job(name: &str, spec: &str, command: &str) -> String {
    let template = template(command);
    format!(
        "---\napiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}}}\nspec: {{{spec}template: {template}}}\n"
    )
}

/// One that fails until somebody mends what it reads, one that nothing mends, one of two pieces of work, and one whose time never comes.
fn declared() -> String {
    let words = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: words}\ndata: {status: \"3\"}\n";
    let never = format!(
        "---\napiVersion: batch/v1\nkind: CronJob\nmetadata: {{name: never}}\nspec: {{schedule: 0 0 1 1 *, suspend: true, jobTemplate: {{spec: {{template: {}}}}}}}\n",
        template("echo at work; while :; do :; done")
    );
    [
        words,
        &job("mended", "", "exit $(STATUS)"),
        &job("hopeless", "backoffLimit: 0, ", "echo no; exit 1"),
        &job(
            "pieces",
            "completionMode: Indexed, completions: 2, parallelism: 2, ",
            "echo piece $JOB_COMPLETION_INDEX",
        ),
        &never,
    ]
    .concat()
}

#[test]
#[ignore = "long: VIAL_E2E_LONG=1 tools/test --e2e kubernetes"]
fn jobs_back_off_give_up_number_their_pods_and_go_and_a_crons_is_run_by_hand() {
    let vial = Vial::with_busybox();
    let Some(kubectl) = Kubectl::of(&vial) else {
        eprintln!("skipped: there is no kubectl here");
        return;
    };
    let api = Api::of(&vial);
    kubectl.apply(&declared());
    let until = |job: &str, is_so: &dyn Fn(&Value) -> bool| {
        api.until(&format!("{JOBS}?fieldSelector=metadata.name%3D{job}"), |_, found| is_so(found))
    };
    let patch = |place: &str, patch: Value| {
        let answer = api.ask("PATCH", place, Some(&patch)).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.body);
    };
    until("mended", &|job| job["status"]["failed"].as_u64() >= Some(1));
    patch("/api/v1/namespaces/default/configmaps/words", json!({"data": {"status": "0"}}));
    let hopeless = until("hopeless", &|job| has(job, "Failed"));
    let conditions = hopeless["status"]["conditions"].as_array().expect("a list");
    assert!(conditions.iter().any(|one| one["reason"] == "BackoffLimitExceeded"), "{conditions:?}");
    assert_eq!(kubectl.run("logs job/hopeless").ok(), "no\n");
    let pieces = until("pieces", &|job| has(job, "Complete"));
    assert_eq!(pieces["status"]["completedIndexes"], "0,1");
    let logs = kubectl.run("logs -l job-name=pieces").ok();
    let mut lines: Vec<&str> = logs.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["piece 0", "piece 1"]);
    let mended = until("mended", &|job| has(job, "Complete"));
    assert_eq!(mended["status"]["succeeded"], 1);

    // They go with what is left of their pods.
    for job in ["pieces", "mended", "hopeless"] {
        patch(&format!("{JOBS}/{job}"), json!({"spec": {"ttlSecondsAfterFinished": 0}}));
    }
    for job in ["pieces", "mended", "hopeless"] {
        talk::until("the job goes", || {
            (api.ask("GET", &format!("{JOBS}/{job}"), None).ok()?.status == 404).then_some(())
        });
    }
    assert_eq!(vial.run(["ps", "-aq"]).ok() + &vial.run(["pod", "ls", "-q"]).ok(), "");

    kubectl.run("create job by-hand --from=cronjob/never").ok();
    let pod = api.until(PODS, |_, pod| pod["status"]["phase"] == "Running");
    let top = kubectl.run("top pod --no-headers").ok();
    let words: Vec<&str> = top.split_whitespace().collect();
    let used =
        |word: &str, unit: &str| word.strip_suffix(unit).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    assert!(words.len() == 3 && pod["metadata"]["name"] == words[0], "{top}");
    assert!(used(words[1], "m") > 0 && used(words[2], "Mi") < 64, "{top}");
    kubectl.run("delete cronjob/never job/by-hand --cascade=foreground --timeout=400s").ok();
    assert_eq!(vial.run(["pod", "ls", "-q"]).ok(), "");
    vial.leaves_nothing();
}
