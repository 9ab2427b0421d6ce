"""The compute that a step asks for by `@kubernetes` or `@resources`: the attributes that differ from the defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metaflow.metaflow_config import KUBERNETES_CONTAINER_IMAGE, KUBERNETES_GPU_VENDOR, KUBERNETES_SECRETS

if TYPE_CHECKING:
    from collections.abc import Iterable

# What a pod of the quality of service `Guaranteed` has limits of, also if they are the default ones.
GUARANTEED = ("cpu", "memory", "disk")
# Attributes that say nothing by themselves, with the one that they belong to.
DETAILS = {"gpu_vendor": "gpu", "tmpfs_path": "tmpfs_size", "tmpfs_tempdir": "tmpfs_size"}
# Metaflow has made of these what others say.
TURNED_INTO_OTHERS = frozenset({"compute_pool", "hostname_resolution_timeout", "use_tmpfs"})


def read_compute(decorators: Iterable[Any]) -> dict[str, Any]:
    """The compute of a step.

    Args:
        decorators: The step's decorators, initialized: `@kubernetes` has taken the larger one of what both ask for.

    Returns:
        The attributes of `@kubernetes`, or else of `@resources`, that the user gives, or that Metaflow's configuration
        changes; none if the step has neither.
    """
    found = {decorator.name: decorator for decorator in decorators if decorator.name in ("kubernetes", "resources")}
    decorator = found.get("kubernetes") or found.get("resources")
    if decorator is None:
        return {}
    given_by_user: set[str] = set().union(*(other._user_defined_attributes for other in found.values()))
    attributes = {**decorator.attributes}
    if "kubernetes" in found:
        attributes["secrets"] = _secrets(attributes["secrets"])
        if "image" not in given_by_user and not KUBERNETES_CONTAINER_IMAGE:
            # Metaflow's own, which has no Dagster
            attributes["image"] = None
        if "namespace" not in given_by_user:
            attributes["namespace"] = None
    else:
        attributes["gpu_vendor"] = KUBERNETES_GPU_VENDOR
    is_guaranteed = str(attributes.get("qos")).lower() == "guaranteed"
    kept = {
        name: value
        for name, value in attributes.items()
        if name not in TURNED_INTO_OTHERS
        and value not in (None, "", [], {})
        and (
            name in given_by_user
            or (is_guaranteed and name in GUARANTEED)
            or not _is_same(value, decorator.defaults.get(name))
        )
    }
    return {name: value for name, value in kept.items() if name not in DETAILS or DETAILS[name] in kept}


def _is_same(value: Any, default: Any) -> bool:
    """Whether a value is the default one; as a number, where it is one."""
    try:
        return float(value) == float(default)
    except (TypeError, ValueError):
        return str(value).lower() == str(default).lower()


def _secrets(value: Any) -> list[str]:
    """The secrets of `@kubernetes`, a name or several, and those of Metaflow's configuration."""
    own = [value] if isinstance(value, str) else list(value or ())
    return [*own, *(name for name in str(KUBERNETES_SECRETS).split(",") if name)]
