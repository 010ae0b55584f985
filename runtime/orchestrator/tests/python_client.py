"""What the official Python client does with a server: usage: python_client.py KUBECONFIG

Lists, watches, creates, patches in each way, reads, applies, conflicts, deletes. Says "all is well" at its end.
"""
import json
import sys
import threading

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException

config.load_kube_config(config_file=sys.argv[1])
core, apps, batch = client.CoreV1Api(), client.AppsV1Api(), client.BatchV1Api()
NS = "default"


def refused(code, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except ApiException as error:
        assert error.status == code, (error.status, error.body)
        return
    raise AssertionError(f"{call.__name__} was not refused")


assert client.VersionApi().get_code().minor == "33"
assert {"default", "kube-system"} <= {one.metadata.name for one in core.list_namespace().items}

# A watch sees what happens from where a list ended.
version = core.list_namespaced_config_map(NS).metadata.resource_version
seen, ready = [], threading.Event()


def follow():
    for event in watch.Watch().stream(core.list_namespaced_config_map, NS, resource_version=version, timeout_seconds=60):
        seen.append((event["type"], event["object"].metadata.name))
        if event["type"] == "DELETED":
            ready.set()
            return


follower = threading.Thread(target=follow)
follower.start()
body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="one", labels={"a": "b"}), data={"k": "v"})
core.create_namespaced_config_map(NS, body)
refused(409, core.create_namespaced_config_map, NS, body)
core.patch_namespaced_config_map("one", NS, {"data": {"more": "x"}})
core.patch_namespaced_config_map("one", NS, [{"op": "replace", "path": "/data/k", "value": "w"}])
assert core.read_namespaced_config_map("one", NS).data == {"k": "w", "more": "x"}
assert len(core.list_namespaced_config_map(NS, label_selector="a=b").items) == 1
core.delete_namespaced_config_map("one", NS)
refused(404, core.read_namespaced_config_map, "one", NS)
assert ready.wait(60), seen
assert seen == [("ADDED", "one"), ("MODIFIED", "one"), ("MODIFIED", "one"), ("DELETED", "one")], seen

core.create_namespaced_secret(NS, client.V1Secret(metadata=client.V1ObjectMeta(name="s"), string_data={"password": "x"}))
assert core.read_namespaced_secret("s", NS).data == {"password": "eA=="}

container = client.V1Container(name="c", image="busybox", command=["true"])
template = client.V1PodTemplateSpec(
    metadata=client.V1ObjectMeta(labels={"app": "web"}), spec=client.V1PodSpec(containers=[container]))
spec = client.V1DeploymentSpec(replicas=2, selector=client.V1LabelSelector(match_labels={"app": "web"}), template=template)
apps.create_namespaced_deployment(NS, client.V1Deployment(metadata=client.V1ObjectMeta(name="web"), spec=spec))
apps.patch_namespaced_deployment_scale("web", NS, {"spec": {"replicas": 5}})
assert apps.read_namespaced_deployment("web", NS).spec.replicas == 5
refused(422, apps.patch_namespaced_deployment, "web", NS, {"spec": {"selector": {"matchLabels": {"app": "x"}}}})
once = client.V1PodTemplateSpec(spec=client.V1PodSpec(restart_policy="Never", containers=[container]))
batch.create_namespaced_job(NS, client.V1Job(metadata=client.V1ObjectMeta(name="j"), spec=client.V1JobSpec(template=once)))
refused(422, batch.create_namespaced_cron_job, NS, client.V1CronJob(
    metadata=client.V1ObjectMeta(name="c"), spec=client.V1CronJobSpec(
        schedule="often", job_template=client.V1JobTemplateSpec(spec=client.V1JobSpec(template=once)))))
apps.delete_namespaced_deployment("web", NS, propagation_policy="Foreground")

# What is found out by discovery, and server-side apply.
maps = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version="v1", kind="ConfigMap")


def apply(value, manager, **more):
    # As text: the library of Debian 12 (22.6) sends no object with this content type.
    wanted = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"k": value}}
    maps.server_side_apply(body=json.dumps(wanted), name="applied", namespace=NS, field_manager=manager, **more)


apply("v", "one")
try:
    apply("w", "two")
    raise AssertionError("no conflict")
except ApiException as error:
    assert error.status == 409, error.status
apply("w", "two", force_conflicts=True)
assert maps.get(name="applied", namespace=NS).data.k == "w"
print("all is well")
