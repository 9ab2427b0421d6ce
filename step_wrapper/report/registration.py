"""Registration of an attempt at Metaflow's metadata provider, as far as it is the wrapper's."""

from __future__ import annotations

import functools
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

from step_wrapper.variables import seconds_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from metaflow.datastore import FlowDataStore

    from step_wrapper.launch import Launch

# How long Metaflow's service may take for an answer, and the environment variable that changes that.
SERVICE_SECONDS = 60
SERVICE_VARIABLE = "METAFLOW_PIPES_SERVICE_SECONDS"


def open_metadata(launch: Launch) -> Any:
    """The metadata provider, as an attempt uses it outside of Metaflow's own `step` command."""
    if launch.datastore == "local":
        LocalStorage.datastore_root = launch.datastore_root
    provider = open_provider(launch.metadata, launch.flow, script=launch.command[0])
    provider.add_sticky_tags(tags=launch.tags, sys_tags=launch.all_system_tags)
    return provider


def open_provider(metadata: str, flow: str, *, script: str) -> Any:
    """A metadata provider, outside of any command of Metaflow's.

    Args:
        metadata: Its type: `local`, `service`, ...
        flow: The flow's name.
        script: The flow file.
    """
    provider_class: Any = next(provider for provider in METADATA_PROVIDERS if metadata == provider.TYPE)
    # where Metaflow looks for the script's name and its git repository
    sys.argv[0] = script
    named = types.SimpleNamespace(name=flow)
    provider = provider_class(MetaflowEnvironment(named), named, NullEventLogger(), NullMonitor())
    limit_requests(provider)
    return provider


def limit_requests(provider: Any) -> None:
    """Let no request of a metadata provider wait for ever: Metaflow's own to its service have no time limit.

    One that takes longer fails like one that can't connect, and Metaflow tries it again as often.

    Args:
        provider: The provider; of others than Metaflow's service, nothing is limited.
    """
    seconds = seconds_of(SERVICE_VARIABLE, SERVICE_SECONDS)
    session = getattr(provider, "_session", None)
    for adapter in getattr(session, "adapters", {}).values():
        if "send" not in vars(adapter):
            adapter.send = functools.partial(_send, adapter.send, seconds)


def _send(send: Callable[..., Any], seconds: float, request: Any, *, timeout: Any = None, **options: Any) -> Any:
    return send(request, timeout=timeout or seconds, **options)


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
