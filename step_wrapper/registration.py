"""Makes an attempt known to Metaflow that ended before Metaflow itself could, so that its logs are found."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

from metaflow.event_logger import NullEventLogger
from metaflow.metadata_provider import MetaDatum
from metaflow.metaflow_environment import MetaflowEnvironment
from metaflow.monitor import NullMonitor
from metaflow.plugins import METADATA_PROVIDERS
from metaflow.plugins.datastores.local_storage import LocalStorage

if TYPE_CHECKING:
    from metaflow.datastore import FlowDataStore

    from step_wrapper.launch import Launch


def register_attempt(datastore: FlowDataStore, launch: Launch) -> None:
    """Register run, task and attempt, as far as Metaflow has not.

    Args:
        datastore: The flow's datastore.
        launch: The attempt.
    """
    provider_class: Any = next(provider for provider in METADATA_PROVIDERS if launch.metadata == provider.TYPE)
    if launch.datastore == "local":
        LocalStorage.datastore_root = launch.datastore_root
    task: Any = datastore.get_task_datastore(
        launch.run_id, launch.step, launch.task_id, attempt=launch.attempt, mode="w"
    )
    if not task.has_metadata(task.METADATA_ATTEMPT_SUFFIX):
        task.init_task()
    ids = (launch.flow, launch.run_id, launch.step, launch.task_id)
    is_known = bool(provider_class.get_object("task", "self", None, None, *ids))
    if is_known and _has_begun(provider_class.get_object("task", "metadata", None, None, *ids), launch.attempt):
        return
    flow = types.SimpleNamespace(name=launch.flow)
    provider = provider_class(MetaflowEnvironment(flow), flow, NullEventLogger(), NullMonitor())
    provider.add_sticky_tags(tags=launch.tags, sys_tags=launch.system_tags)
    if not is_known:
        provider.register_run_id(launch.run_id)
        provider.register_task_id(launch.run_id, launch.step, launch.task_id, launch.attempt)
    # what `metaflow.task` registers when it begins an attempt
    facts = {"attempt": str(launch.attempt), "ds-type": launch.datastore, "ds-root": launch.datastore_root}
    tags = [f"attempt_id:{launch.attempt}"]
    entries = [MetaDatum(field=key, value=value, type=key, tags=tags) for key, value in facts.items()]
    provider.register_metadata(launch.run_id, launch.step, launch.task_id, entries)


def _has_begun(metadata: Any, attempt: int) -> bool:
    return any(entry["field_name"] == "attempt" and entry["value"] == str(attempt) for entry in metadata or ())
