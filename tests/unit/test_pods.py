"""The pod that dagster-k8s makes of an op's tag: it has what `@kubernetes` and `@resources` ask for."""

from __future__ import annotations

import json
import types
from typing import Any

import kubernetes.client
import pytest
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import (
    USER_DEFINED_K8S_CONFIG_KEY,
    DagsterK8sJobConfig,
    construct_dagster_k8s_job,
    get_user_defined_k8s_config,
)
from metaflow.plugins.kubernetes.kubernetes_decorator import KubernetesDecorator
from metaflow.plugins.kubernetes.kubernetes_job import KubernetesJob
from metaflow.plugins.resources_decorator import ResourcesDecorator

from metaflow_pipes.compile import compute
from metaflow_pipes.compile.compute import read_compute
from metaflow_pipes.compile.pods import TAG, pod_config

OPERATOR = {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}
IMAGE = "registry/dagster:1"
# What 2.19.0, the first Metaflow that is supported, does not have.
HAS_EXTENDED_RESOURCES = "extended_resources" in KubernetesDecorator.defaults
EXTENDED_RESOURCES = {"extended_resources": {"vendor.com/dongle": "2"}} if HAS_EXTENDED_RESOURCES else {}
newer_metaflow = pytest.mark.skipif(not HAS_EXTENDED_RESOURCES, reason="Metaflow's decorators don't have it yet")


def _initialized(kubernetes: dict[str, Any] | None, resources: dict[str, Any] | None) -> list[Any]:
    """The decorators of a step, as Metaflow has them when a flow with a datastore on S3 is compiled."""
    decorators: list[Any] = []
    if resources is not None:
        decorators.append(ResourcesDecorator(dict(resources), statically_defined=True))
    if kubernetes is not None:
        decorators.append(KubernetesDecorator(dict(kubernetes), statically_defined=True))
    for decorator in decorators:
        decorator.external_init()
    datastore = types.SimpleNamespace(TYPE="s3")
    for decorator in decorators:
        decorator.step_init(None, None, "train", decorators, None, datastore, None)
    return decorators


def _config(kubernetes: dict[str, Any] | None = None, resources: dict[str, Any] | None = None) -> dict[str, Any]:
    return pod_config(read_compute(_initialized(kubernetes, resources)))


def _requests(**amounts: str) -> dict[str, Any]:
    return {"container_config": {"resources": {"requests": amounts}}}


@pytest.mark.parametrize(
    ("kubernetes", "resources", "config"),
    [
        (None, None, {}),
        # defaults are left to the deployment, unless they are written
        (None, {}, {}),
        ({}, None, {}),
        (None, {"cpu": 4}, _requests(cpu="4")),
        (None, {"cpu": 0.5, "memory": 4096}, _requests(cpu="0.5", memory="4096M")),
        (None, {"memory": 8000, "disk": 500}, {**_requests(**{"memory": "8000M", "ephemeral-storage": "500M"})}),
        (None, {"gpu": 2}, {"container_config": {"resources": {"limits": {"nvidia.com/gpu": "2"}}}}),
        ({"gpu": 1, "gpu_vendor": "AMD"}, None, {"container_config": {"resources": {"limits": {"amd.com/gpu": "1"}}}}),
        # no GPU on purpose
        ({"gpu": 0}, None, {"container_config": {"resources": {"limits": {"nvidia.com/gpu": "0"}}}}),
        ({"gpu_vendor": "amd"}, None, {}),
        # the larger one of both
        ({"cpu": 2, "memory": 9000}, {"cpu": 4, "memory": 8000}, _requests(cpu="4", memory="9000M")),
        ({}, {"cpu": 8}, _requests(cpu="8")),
        (
            {"qos": "Guaranteed", "cpu": 2},
            None,
            {
                "container_config": {
                    "resources": {
                        "requests": {"cpu": "2", "memory": "4096M", "ephemeral-storage": "10240M"},
                        "limits": {"cpu": "2", "memory": "4096M", "ephemeral-storage": "10240M"},
                    }
                }
            },
        ),
        pytest.param(
            {"extended_resources": {"vendor.com/dongle": 2}},
            None,
            {
                "container_config": {
                    "resources": {"requests": {"vendor.com/dongle": "2"}, "limits": {"vendor.com/dongle": "2"}}
                }
            },
            marks=newer_metaflow,
        ),
        (
            {"image": IMAGE, "image_pull_policy": "Always", "image_pull_secrets": ["key"]},
            None,
            {
                "container_config": {"image": IMAGE, "image_pull_policy": "Always"},
                "pod_spec_config": {"image_pull_secrets": [{"name": "key"}]},
            },
        ),
        (
            {"service_account": "trainer", "node_selector": "disk=ssd,zone=a", "tolerations": [OPERATOR]},
            None,
            {
                "pod_spec_config": {
                    "service_account_name": "trainer",
                    "node_selector": {"disk": "ssd", "zone": "a"},
                    "tolerations": [OPERATOR],
                }
            },
        ),
        (
            {"compute_pool": "large"},
            None,
            {"pod_spec_config": {"node_selector": {"outerbounds.co/compute-pool": "large"}}},
        ),
        (
            {"labels": {"team": "shop"}, "annotations": {"note": "a b"}},
            None,
            {"pod_template_spec_metadata": {"labels": {"team": "shop"}, "annotations": {"note": "a b"}}},
        ),
        (
            {"secrets": ["one", "two"], "port": 8080, "security_context": {"run_as_user": 1000}},
            None,
            {
                "container_config": {
                    "env_from": [{"secret_ref": {"name": "one"}}, {"secret_ref": {"name": "two"}}],
                    "ports": [{"container_port": 8080}],
                    "security_context": {"run_as_user": 1000},
                }
            },
        ),
        pytest.param(
            {},
            {"shared_memory": 64},
            {
                "container_config": {"volume_mounts": [{"name": "dhsm", "mount_path": "/dev/shm"}]},
                "pod_spec_config": {
                    "volumes": [{"name": "dhsm", "empty_dir": {"medium": "Memory", "size_limit": "64Mi"}}]
                },
            },
            marks=newer_metaflow,
        ),
        (
            {"use_tmpfs": True, "tmpfs_size": 100, "tmpfs_path": "/fast"},
            None,
            {
                "container_config": {
                    "env": [{"name": "METAFLOW_TEMPDIR", "value": "/fast"}],
                    "volume_mounts": [{"name": "tmpfs-ephemeral-volume", "mount_path": "/fast"}],
                },
                "pod_spec_config": {
                    "volumes": [
                        {"name": "tmpfs-ephemeral-volume", "empty_dir": {"medium": "Memory", "size_limit": "100Mi"}}
                    ]
                },
            },
        ),
        (
            {"persistent_volume_claims": {"data": "/data"}},
            None,
            {
                "container_config": {"volume_mounts": [{"name": "data", "mount_path": "/data"}]},
                "pod_spec_config": {
                    "volumes": [{"name": "data", "persistent_volume_claim": {"claim_name": "data"}}],
                },
            },
        ),
    ],
)
def test_config_of_the_pod(kubernetes, resources, config):
    assert _config(kubernetes, resources) == config
    # Dagster's own schema takes it, and Kubernetes's models do
    _pod(config)


def _pod(config: dict[str, Any]) -> dict[str, Any]:
    """The pod that dagster-k8s makes of a config, as Kubernetes is sent it."""
    context = K8sContainerContext(run_k8s_config=get_user_defined_k8s_config({TAG: json.dumps(config)}))
    job = construct_dagster_k8s_job(
        job_config=DagsterK8sJobConfig(job_image="registry/other:1", dagster_home="/opt/dagster"),
        args=["dagster"],
        job_name="job",
        user_defined_k8s_config=context.run_k8s_config,
    )
    return kubernetes.client.ApiClient().sanitize_for_serialization(job)["spec"]["template"]


def test_pod_asks_for_what_a_pod_of_metaflow_asks_for():
    given = {
        "cpu": 2,
        "memory": 8000,
        "disk": 500,
        "gpu": 1,
        "gpu_vendor": "amd",
        "image": IMAGE,
        "image_pull_policy": "Always",
        "image_pull_secrets": ["key"],
        "service_account": "trainer",
        "node_selector": {"disk": "ssd"},
        "tolerations": [OPERATOR, {"key": "spot", "toleration_seconds": 30}],
        "labels": {"team": "shop"},
        "annotations": {"note": "a b"},
        "tmpfs_size": 100,
        "persistent_volume_claims": {"data": "/data", "models": "/models"},
        "shared_memory": 64,
        "port": 8080,
        "qos": "Guaranteed",
        **EXTENDED_RESOURCES,
        "security_context": {"run_as_user": 1000, "privileged": False},
    }
    (decorator,) = _initialized(given, None)
    client = types.SimpleNamespace(get=lambda: kubernetes.client)
    attributes = {**decorator.attributes, "secrets": ["one"], "step_name": "train", "command": [], "namespace": "jobs"}
    spec = KubernetesJob(client, timeout_in_seconds=60, **attributes).create_job_spec()
    of_metaflow = kubernetes.client.ApiClient().sanitize_for_serialization(spec)["template"]
    ours = _pod(_config({**given, "secrets": ["one"]}))
    for name in ("nodeSelector", "tolerations", "imagePullSecrets", "serviceAccountName", "volumes"):
        assert ours["spec"][name] == of_metaflow["spec"][name], name
    (container,), (container_of_metaflow,) = ours["spec"]["containers"], of_metaflow["spec"]["containers"]
    names = ("image", "imagePullPolicy", "resources", "envFrom", "ports", "securityContext", "volumeMounts")
    for name in names:
        assert container[name] == container_of_metaflow[name], name
    for name in ("labels", "annotations"):
        assert of_metaflow["metadata"][name].items() <= ours["metadata"][name].items()


def test_configuration_of_metaflow_counts_as_given(monkeypatch):
    module = "metaflow.plugins.kubernetes.kubernetes_decorator"
    for name, value in {"CPU": "3", "SERVICE_ACCOUNT": "runner", "LABELS": "team=shop"}.items():
        monkeypatch.setattr(f"{module}.KUBERNETES_{name}", value)
    monkeypatch.setattr(f"{module}.KUBERNETES_CONTAINER_IMAGE", IMAGE)
    monkeypatch.setattr(compute, "KUBERNETES_CONTAINER_IMAGE", IMAGE)
    monkeypatch.setattr(compute, "KUBERNETES_SECRETS", "one,two")
    assert _config({}) == {
        "container_config": {
            "image": IMAGE,
            "resources": {"requests": {"cpu": "3"}},
            "env_from": [{"secret_ref": {"name": "one"}}, {"secret_ref": {"name": "two"}}],
        },
        "pod_spec_config": {"service_account_name": "runner"},
        "pod_template_spec_metadata": {"labels": {"team": "shop"}},
    }


def test_each_attribute_of_the_decorator_is_known():
    said = {"namespace", "executable", *compute.TURNED_INTO_OTHERS}
    others = set(KubernetesDecorator.defaults) - said
    assert others == {
        *("annotations", "cpu", "disk", *EXTENDED_RESOURCES, "gpu", "gpu_vendor", "image", "image_pull_policy"),
        *("image_pull_secrets", "labels", "memory", "node_selector", "persistent_volume_claims", "port", "qos"),
        *("secrets", "security_context", "service_account", "shared_memory", "tmpfs_path", "tmpfs_size"),
        *("tmpfs_tempdir", "tolerations"),
    }
    assert TAG == USER_DEFINED_K8S_CONFIG_KEY
