//! Streams of a declared pod: a real kubectl, a real VM, one boot. What each client's protocol is, is tested in the orchestrator.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use vial_tests::host::{Vial, path};

/// Listens on its loopback only, and ends when somebody has typed a line.
const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: busybox:latest
    imagePullPolicy: Never
    stdin: true
    stdinOnce: true
    command: [sh, -c, 'mkdir /www; echo page >/www/page; httpd -p 127.0.0.1:8080 -h /www; echo started; echo bad >&2; read line; echo \"got $line\"']
    readinessProbe: {exec: {command: [cat, /www/page]}, periodSeconds: 1, timeoutSeconds: 30}
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [MKNOD, NET_RAW]}}
";

/// Through a forwarded port.
fn forwarded(vial: &Vial) {
    let mut forward = vial.command(["kubectl", "port-forward", "pod/p", ":8080"]);
    let mut child = forward.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("kubectl runs");
    let pid = i32::try_from(child.id()).expect("a pid");
    // Kept: a kubectl that can't print dies.
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    vial.within_limit(pid, || lines.read_line(&mut line)).expect("it says where");
    let port = line.strip_prefix("Forwarding from 127.0.0.1:").and_then(|rest| rest.split(' ').next());
    let port = port.unwrap_or_else(|| panic!("{line:?}"));
    let url = format!("http://127.0.0.1:{port}/page");
    for _ in 0..3 {
        let page = Command::new("curl").args(["-sS", "--max-time", "60", &url]).output().expect("curl runs");
        assert_eq!(
            String::from_utf8_lossy(&page.stdout),
            "page\n",
            "{}",
            String::from_utf8_lossy(&page.stderr)
        );
    }
    let _ = child.kill();
    let _ = child.wait();
}

#[test]
fn a_pod_is_spoken_with_in_every_way_that_kubectl_has() {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&paths).any(|folder| folder.join("kubectl").exists()) {
        eprintln!("skipped: there is no kubectl here");
        return;
    }
    let vial = Vial::with_busybox();
    let kubectl = |line: &str| vial.run(["kubectl"].into_iter().chain(line.split(' ')));
    let folder = tempfile::tempdir_in("/var/lib/vial").expect("a folder");
    let file = folder.path().join("pod.yaml");
    std::fs::write(&file, POD).expect("a file");
    kubectl(&format!("create -f {}", path(&file))).ok();
    kubectl("wait --for=condition=Ready pod/p --timeout=400s").ok();
    let said = kubectl("logs p").ok();
    assert!(said.contains("started\n") && said.contains("bad\n"), "{said}");
    assert!(kubectl("logs p --tail=1 --timestamps").ok().starts_with("20"));

    let output = vial.run(["kubectl", "exec", "p", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((output.code, &output.stdout[..]), (7, "out\n"), "{}", output.stderr);
    assert!(output.stderr.contains("err\n"), "{}", output.stderr);
    kubectl("exec p -- no-such-command").fails(1, "no-such-command");
    // As the container itself: the usual 14 capabilities without two, and no way to more.
    let rights = kubectl("exec p -- cat /proc/self/status").ok();
    assert!(
        rights.contains("CapBnd:\t00000000a00405fb\n") && rights.contains("NoNewPrivs:\t1\n"),
        "{rights}"
    );
    let text = "all of this, there and back\n".repeat(40_000);
    let back = vial.run_with(["kubectl", "exec", "-i", "p", "--", "cat"], text.as_bytes()).ok();
    assert!(back == text, "{} of {} bytes came back", back.len(), text.len());
    // The size comes when the command runs already, as in Kubernetes.
    let size = "'until stty size | grep 97; do usleep 50000; done'";
    let line = format!("stty cols 97 rows 31; {} kubectl exec -it p -- sh -c {size}", path(&Vial::program()));
    let mut terminal = Command::new("script");
    let folders = [("VIAL_DATA_DIR", vial.data()), ("VIAL_RUN_DIR", vial.run_dir())];
    terminal.args(["-qefc", &line, "/dev/null"]).envs(folders);
    let seen = vial.output(terminal).ok();
    assert!(seen.contains("31 97"), "{seen:?}");

    // First the image's tar, then the agent's.
    let (source, copy) = (folder.path().join("source"), folder.path().join("copy"));
    std::fs::write(&source, &text).expect("a file");
    for _ in 0..2 {
        kubectl(&format!("cp {} p:/tmp/there", path(&source))).ok();
        kubectl(&format!("cp p:/tmp/there {}", path(&copy))).ok();
        assert!(std::fs::read_to_string(&copy).expect("a copy") == text);
        std::fs::remove_file(&copy).expect("it can be removed");
        kubectl("exec p -- rm -f /tmp/there /bin/tar").ok();
    }
    forwarded(&vial);
    let attached = vial.run_with(["kubectl", "attach", "-i", "p"], b"a line\n");
    assert!(attached.ok().contains("got a line"));
    assert!(kubectl("logs p").ok().ends_with("got a line\n"));
    kubectl("delete pod p").ok();
    // Of vial kubectl, which writes it anew each time.
    std::fs::remove_file(vial.run_dir().join("kubeconfig")).expect("it can be removed");
    vial.leaves_nothing();
}
