"""Registration of an attempt at Metaflow's metadata provider, as far as it is the wrapper's."""

from __future__ import annotations

import json
import sys
import types
from typing import TYPE_CHECKING, Any

from metaflow.event_logger import NullEventLogger
from metaflow.metadata_provider import MetaDatum
from metaflow.metaflow_environment import MetaflowEnvironment
from metaflow.monitor import NullMonitor
from metaflow.plugins import METADATA_PROVIDERS
from metaflow.plugins.datastores.local_storage import LocalStorage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from metaflow.datastore import FlowDataStore

    from step_wrapper.launch import Launch


def open_metadata(launch: Launch) -> Any:
    """The metadata provider, as an attempt uses it outside of Metaflow's own `step` command."""
    provider_class: Any = next(provider for provider in METADATA_PROVIDERS if launch.metadata == provider.TYPE)
    if launch.datastore == "local":
        LocalStorage.datastore_root = launch.datastore_root
    # where Metaflow looks for the script's name and its git repository
    sys.argv[0] = launch.command[0]
    flow = types.SimpleNamespace(name=launch.flow)
    provider = provider_class(MetaflowEnvironment(flow), flow, NullEventLogger(), NullMonitor())
    provider.add_sticky_tags(tags=launch.tags, sys_tags=launch.all_system_tags)
    return provider


def register_dagster_run(launch: Launch, metadata: Any) -> None:
    """Let an attempt say which Dagster step runs it; and the start step, what has triggered the run.

    Args:
        launch: The attempt.
        metadata: The metadata provider.
    """
    facts = {
        "dagster-run-id": launch.dagster_run_id,
        "dagster-job-name": launch.dagster_job_name,
        "dagster-step-key": launch.dagster_step_key,
    }
    if launch.triggers and launch.init is not None:
        # where the client's `Run.trigger` looks: at the start step
        facts["execution-triggers"] = json.dumps(launch.triggers)
    _register(launch, metadata, facts)


def register_attempt(datastore: FlowDataStore, launch: Launch) -> None:
    """Register run, task and attempt that ended before Metaflow could, so that the logs are found.

    Args:
        datastore: The flow's datastore.
        launch: The attempt.
    """
    task: Any = datastore.get_task_datastore(
        launch.run_id, launch.step, launch.task_id, attempt=launch.attempt, mode="w"
    )
    if not task.has_metadata(task.METADATA_ATTEMPT_SUFFIX):
        task.init_task()
    ids = (launch.flow, launch.run_id, launch.step, launch.task_id)
    metadata = open_metadata(launch)
    is_known = bool(metadata.get_object("task", "self", None, None, *ids))
    if is_known and _has_begun(metadata.get_object("task", "metadata", None, None, *ids), launch.attempt):
        return
    if not is_known:
        metadata.register_run_id(launch.run_id)
        metadata.register_task_id(launch.run_id, launch.step, launch.task_id, launch.attempt)
    # what `metaflow.task` registers when it begins an attempt
    facts = {"attempt": str(launch.attempt), "ds-type": launch.datastore, "ds-root": launch.datastore_root}
    _register(launch, metadata, facts)


def _register(launch: Launch, metadata: Any, facts: Mapping[str, str]) -> None:
    tags = [f"attempt_id:{launch.attempt}"]
    entries = [MetaDatum(field=key, value=value, type=key, tags=tags) for key, value in facts.items()]
    metadata.register_metadata(launch.run_id, launch.step, launch.task_id, entries)


def _has_begun(metadata: Any, attempt: int) -> bool:
    return any(entry["field_name"] == "attempt" and entry["value"] == str(attempt) for entry in metadata or ())
