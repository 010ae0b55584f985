"""The half of tools/figures-k8s that needs pods that run: usage: figures_k8s.py VIAL FIXTURES COUNT…

Times are from the first request to the moment when all is ready, over the API server's own connections and not through a kubectl, which would cost more
than what is measured. Prints a table.
"""
import base64
import http.client
import json
import os
import re
import ssl
import subprocess
import sys
import tempfile
import time

vial, fixtures, counts = sys.argv[1], sys.argv[2], [int(word) for word in sys.argv[3:]]
work = tempfile.mkdtemp(dir="/var/lib/vial")
os.environ.update(VIAL_DATA_DIR=f"{work}/data", VIAL_RUN_DIR=f"{work}/run")
for folder in ("data", "run"):
    os.makedirs(f"{work}/{folder}", mode=0o700)
# Seconds that anything may take: the emulated host is slow.
LIMIT = 1800
COMMAND = ["sleep", "10000"]
PODS = "/api/v1/namespaces/default/pods"


class Failed(Exception):
    """A program ended with an error."""


def run(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def connection():
    """To the API server, with the certificate of the kubeconfig."""
    text = run(vial, "kubeconfig")
    parts = {}
    for key in ("certificate-authority-data", "client-certificate-data", "client-key-data"):
        parts[key] = f"{work}/{key}"
        with open(parts[key], "wb") as file:
            file.write(base64.b64decode(re.search(rf"{key}: *\"?([A-Za-z0-9+/=]+)", text)[1]))
    context = ssl.create_default_context(cafile=parts["certificate-authority-data"])
    context.load_cert_chain(parts["client-certificate-data"], parts["client-key-data"])
    host, port = re.search(r"server: *\"?https://([^:\s\"]+):(\d+)", text).groups()
    return http.client.HTTPSConnection(host, int(port), context=context, timeout=LIMIT)


def ask(method, path, body=None, kind="application/json"):
    server.request(method, path, body and json.dumps(body), {"Content-Type": kind})
    answer = server.getresponse()
    text = answer.read()
    # An idle connection is closed after half a minute; the next request makes another.
    server.close()
    assert answer.status < 300, (method, path, answer.status, text)
    return json.loads(text)


def until(path, is_so):
    """Follows a collection until what it holds is so."""
    listed = ask("GET", path)
    held = {item["metadata"]["name"]: item for item in listed["items"]}
    line = connection()
    mark = "&" if "?" in path else "?"
    line.request("GET", f"{path}{mark}watch=1&resourceVersion={listed['metadata']['resourceVersion']}&timeoutSeconds={LIMIT}")
    events = line.getresponse()
    while not is_so(held.values()):
        text = events.readline()
        if not text:
            sys.exit(f"{path} did not come to be as it should within {LIMIT} s: {sum(map(is_ready, held.values()))} of {len(held)} are Ready")
        event = json.loads(text)
        name = event["object"]["metadata"]["name"]
        if event["type"] == "DELETED":
            held.pop(name, None)
        else:
            held[name] = event["object"]
    line.close()


def is_ready(pod):
    conditions = pod.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def spec(**more):
    container = {"name": "c", "image": "busybox:latest", "imagePullPolicy": "Never", "command": COMMAND,
                 "resources": {"limits": {"memory": "32Mi"}}}
    return {"terminationGracePeriodSeconds": 0, "containers": [container], **more}


def pod(name, group, **more):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"group": group}}, "spec": spec(**more)}


def clear(path):
    ask("DELETE", path)
    until(path, lambda held: not held)


def vial_pods(count):
    """Seconds until so many Pods are Ready."""
    path = f"{PODS}?labelSelector=group%3Dg{count}"
    start = time.monotonic()
    for number in range(count):
        ask("POST", PODS, pod(f"g{count}-{number}", f"g{count}"))
    until(path, lambda held: len(held) == count and all(map(is_ready, held)))
    taken = time.monotonic() - start
    clear(path)
    return taken


def podman(*words):
    return run("podman", "--root", f"{work}/podman", "--runroot", "/run/figures-podman", "--runtime", "crun",
               "--cgroup-manager", "cgroupfs", "--events-backend", "file", *words)


def podman_pods(count):
    """Seconds until podman says that it has started so many pods: it has no network to make, and asks nobody whether they are ready."""
    file = f"{work}/pods.yaml"
    names = [f"g{count}-{number}" for number in range(count)]
    with open(file, "w") as text:
        text.write("\n---\n".join(json.dumps(pod(name, f"g{count}")) for name in names))
    start = time.monotonic()
    podman("kube", "play", "--start=false", "--network", "none", file)
    taken = time.monotonic() - start
    for name in names:
        allow_devices(podman("pod", "inspect", name, "--format", "{{.CgroupPath}}").strip())
    start = time.monotonic()
    podman("pod", "start", *names)
    taken += time.monotonic() - start
    running = podman("ps", "-q", "--filter", "name=-c$").split()
    assert len(running) == count, running
    podman("kube", "down", file)
    return taken


def allow_devices(cgroup):
    """Debian 12's podman has a program deny all devices to a pod's cgroup, and then crun cannot make /dev/null for its containers."""
    path = f"/sys/fs/cgroup{cgroup}"
    for program in json.loads(run("bpftool", "-j", "cgroup", "show", path) or "[]"):
        run("bpftool", "cgroup", "detach", path, "device", "id", str(program["id"]))


def rollout(replicas):
    """Seconds from a change of the template until all are of it and available, and no other is left."""
    path = "/apis/apps/v1/namespaces/default/deployments"

    def all_new(held):
        status, generation = (one := list(held)[0]).get("status", {}), one["metadata"]["generation"]
        numbers = [status.get(field) for field in ("replicas", "updatedReplicas", "availableReplicas")]
        return status.get("observedGeneration") == generation and numbers == [replicas] * 3

    labels = {"app": "web"}
    template = {"metadata": {"labels": labels}, "spec": spec()}
    ask("POST", path, {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
                       "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}})
    until(path, all_new)
    start = time.monotonic()
    change = {"spec": {"template": {"metadata": {"annotations": {"a": "b"}}}}}
    ask("PATCH", f"{path}/web", change, "application/merge-patch+json")
    until(path, all_new)
    taken = time.monotonic() - start
    ask("DELETE", f"{path}/web")
    until(PODS, lambda held: not held)
    return taken


def daemon_memory():
    """MiB of the daemon alone: its share of what others map too."""
    pid = re.search(r"pid (\d+)", run(vial, "daemon", "status"))[1]
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return int(re.search(r"^Pss: +(\d+)", file.read(), re.MULTILINE)[1]) / 1024


def say(what, text):
    print(f"{what:<58} {text}", flush=True)


run(vial, "load", "-q", "-i", f"{fixtures}/busybox.tar")
server = connection()
say("memory of the daemon, nothing declared", f"{daemon_memory():.1f} MiB")
podman("load", "-q", "-i", f"{fixtures}/busybox.tar")
vial_pods(1)  # What is first costs more (docs/testbed.md).
podman_pods(1)
for count in counts:
    ours, theirs = vial_pods(count), podman_pods(count)
    say(f"{count} pods Ready", f"{ours:.1f} s; podman kube play (crun) {theirs:.1f} s; ratio {ours / theirs:.2f}")
say("rollout of 3 replicas", f"{rollout(3):.1f} s")
before = daemon_memory()
for number in range(100):
    ask("POST", PODS, pod(f"many-{number}", "many", **({} if number < 3 else {"nodeSelector": {"none": "here"}})))
until(PODS, lambda held: sum(map(is_ready, held)) == 3)
say("memory of the daemon, 100 pods declared, 3 run", f"{daemon_memory():.1f} MiB, {before:.1f} MiB before")
clear(PODS)
run(vial, "daemon", "stop")
