"""The pod of a step: what `@kubernetes` and `@resources` ask for becomes the op's tag `dagster-k8s/config`.

Pure functions over the attributes of Metaflow's decorators. The pod is as Metaflow's own would be
(`metaflow.plugins.kubernetes.kubernetes_job`), except that Dagster names it and says what runs in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from metaflow_pipes.compile.flow_model import FlowModel

# The op tag that dagster-k8s reads (`dagster_k8s.job.USER_DEFINED_K8S_CONFIG_KEY`).
TAG = "dagster-k8s/config"
# Metaflow's sizes of memory and disk are megabytes, those of file systems in memory mebibytes.
MEGABYTES, MEBIBYTES = "M", "Mi"
DEFAULT_TMPFS_PATH = "/metaflow_temp"
SHARED_MEMORY_PATH = "/dev/shm"  # noqa: S108 - where Linux has it
DEFAULT_GPU_VENDOR = "nvidia"
# The attributes that say what Dagster says of a pod by other means, each with those.
SAID_ELSEWHERE = {
    "namespace": "job_namespace of the run launcher or the executor",
    "executable": "the image",
}


def pod_config(compute: Mapping[str, Any]) -> dict[str, Any]:
    """The value of the tag: what is asked for of a step's pod, in the words of dagster-k8s.

    Args:
        compute: The attributes of `@kubernetes` that have another value than by default, or those of `@resources`.

    Returns:
        The parts of a Kubernetes job that are asked for; none if all is as by default.
    """
    volumes = _volumes(compute)
    container = {
        "image": compute.get("image"),
        "image_pull_policy": compute.get("image_pull_policy"),
        "resources": _resources(compute),
        "env": _environment(compute),
        "env_from": [{"secret_ref": {"name": name}} for name in compute.get("secrets", ())],
        "ports": [{"container_port": int(compute["port"])}] if "port" in compute else [],
        "security_context": dict(compute.get("security_context") or {}),
        "volume_mounts": [{"name": name, "mount_path": path} for name, path, _ in volumes],
    }
    pod = {
        "service_account_name": compute.get("service_account"),
        "node_selector": dict(compute.get("node_selector") or {}),
        "tolerations": [dict(toleration) for toleration in compute.get("tolerations", ())],
        "image_pull_secrets": [{"name": name} for name in compute.get("image_pull_secrets", ())],
        "volumes": [{"name": name, **source} for name, _, source in volumes],
    }
    metadata = {"labels": dict(compute.get("labels") or {}), "annotations": dict(compute.get("annotations") or {})}
    parts = {
        "container_config": _given(container),
        "pod_spec_config": _given(pod),
        "pod_template_spec_metadata": _given(metadata),
    }
    return _given(parts)


def pod_warnings(flow: FlowModel) -> Iterable[str]:
    """A sentence for each attribute of `@kubernetes` that a pod of Dagster's has no use for."""
    for step in flow.steps:
        for attribute in SAID_ELSEWHERE.keys() & step.compute.keys():
            yield (
                f"@kubernetes of step {step.name} has {attribute}={step.compute[attribute]!r}, which has no effect on "
                f"the pod that Dagster launches for the step. It is said by {SAID_ELSEWHERE[attribute]}."
            )


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}


def _resources(compute: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    amounts = {
        name: f"{_number(compute[attribute])}{unit}"
        for attribute, name, unit in (
            ("cpu", "cpu", ""),
            ("memory", "memory", MEGABYTES),
            ("disk", "ephemeral-storage", MEGABYTES),
        )
        if attribute in compute
    }
    extended = {name: str(amount) for name, amount in (compute.get("extended_resources") or {}).items()}
    is_guaranteed = str(compute.get("qos", "")).lower() == "guaranteed"
    vendor = str(compute.get("gpu_vendor", DEFAULT_GPU_VENDOR)).lower()
    gpus = {f"{vendor}.com/gpu": _number(compute["gpu"])} if "gpu" in compute else {}
    return _given(
        {"requests": {**amounts, **extended}, "limits": {**(amounts if is_guaranteed else {}), **extended, **gpus}}
    )


def _environment(compute: Mapping[str, Any]) -> list[dict[str, str]]:
    """The variable by which Metaflow's own files go to the file system in memory."""
    if not compute.get("tmpfs_size") or not compute.get("tmpfs_tempdir", True):
        return []
    return [{"name": "METAFLOW_TEMPDIR", "value": compute.get("tmpfs_path", DEFAULT_TMPFS_PATH)}]


def _volumes(compute: Mapping[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """The volumes: the name, the path and the source of each."""
    volumes: list[tuple[str, str, dict[str, Any]]] = []
    if compute.get("tmpfs_size"):
        path = compute.get("tmpfs_path", DEFAULT_TMPFS_PATH)
        volumes.append(("tmpfs-ephemeral-volume", path, _in_memory(compute["tmpfs_size"])))
    if compute.get("shared_memory"):
        volumes.append(("dhsm", SHARED_MEMORY_PATH, _in_memory(compute["shared_memory"])))
    for claim, path in (compute.get("persistent_volume_claims") or {}).items():
        volumes.append((claim, path, {"persistent_volume_claim": {"claim_name": claim}}))
    return volumes


def _in_memory(size: Any) -> dict[str, Any]:
    return {"empty_dir": {"medium": "Memory", "size_limit": f"{_number(size)}{MEBIBYTES}"}}


def _number(value: Any) -> str:
    """A number as Kubernetes writes it: Metaflow makes `4.0` of `4` where it takes the larger one of two."""
    text = str(value)
    return text.removesuffix(".0")
