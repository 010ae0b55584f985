"""What the official Python client does with a pod that runs: usage: python_streams.py KUBECONFIG

Follows its start, its log and its end; runs commands with input and exit status. Says "all is well" at its end.
"""
import sys

from kubernetes import client, config, watch
from kubernetes.stream import stream

config.load_kube_config(config_file=sys.argv[1])
core, NS, LIMIT = client.CoreV1Api(), "default", 170

command = ["sh", "-c", "echo one; until [ -e /go ]; do usleep 100000; done; echo two; echo bad >&2; exit 3"]
core.create_namespaced_pod(NS, client.V1Pod(
    metadata=client.V1ObjectMeta(name="py"), spec=client.V1PodSpec(
        restart_policy="Never", containers=[client.V1Container(name="c", image="busybox:1", command=command)])))
for event in watch.Watch().stream(core.list_namespaced_pod, NS, field_selector="metadata.name=py", timeout_seconds=LIMIT):
    if event["object"].status.phase == "Running":
        break
else:
    raise AssertionError("it does not come to run")

# With exec the client has no other way to the exit status than the stream kept open.
run = stream(core.connect_get_namespaced_pod_exec, "py", NS, command=["sh", "-c", "read line; echo got $line; echo err >&2; exit 7"],
             stdin=True, stdout=True, stderr=True, tty=False, _preload_content=False)
run.write_stdin("typed\n")
run.run_forever(timeout=LIMIT)
assert (run.read_stdout(), run.read_stderr(), run.returncode) == ("got typed\n", "err\n", 7)
assert stream(core.connect_get_namespaced_pod_exec, "py", NS, command=["echo", "whole"], stdout=True) == "whole\n"

# Followed from before the end to the end.
lines = []
for line in watch.Watch().stream(core.read_namespaced_pod_log, "py", NS, follow=True):
    lines.append(line)
    if line == "one":
        stream(core.connect_get_namespaced_pod_exec, "py", NS, command=["touch", "/go"], stdout=True)
assert lines[0] == "one" and sorted(lines[1:]) == ["bad", "two"], lines
assert core.read_namespaced_pod_log("py", NS, tail_lines=1) in ("two\n", "bad\n")
for event in watch.Watch().stream(core.list_namespaced_pod, NS, field_selector="metadata.name=py", timeout_seconds=LIMIT):
    if event["object"].status.phase == "Failed":
        break
else:
    raise AssertionError("its end is not told")
assert event["object"].status.container_statuses[0].state.terminated.exit_code == 3
core.delete_namespaced_pod("py", NS)
for event in watch.Watch().stream(core.list_namespaced_pod, NS, timeout_seconds=LIMIT):
    if event["type"] == "DELETED":
        break
print("all is well")
