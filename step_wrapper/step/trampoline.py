"""The process that waits for a step's job on another system: Metaflow's own command, and what it has to know of us."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from metaflow.datastore.exceptions import DataException
from metaflow.plugins.environment_decorator import EnvironmentDecorator

from step_wrapper.handover import TRAMPOLINE_VARIABLE
from step_wrapper.remote import STDERR_SOURCE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# What Metaflow's own schedulers hand over to their jobs, too.
_HANDED_OVER = ("METAFLOW_RUNTIME_NAME", "METAFLOW_OWNER", "METAFLOW_PRODUCTION_TOKEN")


def prepare(decorators: list[Any], flow_datastore: Any) -> None:
    """Prepare a step in the process that waits for its job.

    Args:
        decorators: The step's decorators.
        flow_datastore: The flow's datastore.
    """
    given = {name: os.environ[name] for name in _HANDED_OVER if name in os.environ}
    _add_variables(decorators, {**given, **json.loads(os.environ[TRAMPOLINE_VARIABLE])})
    for decorator in decorators:
        if decorator.name == "retry":
            # Dagster has waited already
            decorator.attributes["minutes_between_retries"] = 0
    _tell_streams_apart()
    _keep_reason(flow_datastore)


def _add_variables(decorators: list[Any], variables: Mapping[str, str]) -> None:
    """Let the job have variables, which rank below those of all `@environment`s: of these, Metaflow takes the first."""
    own = [decorator for decorator in decorators if isinstance(decorator, EnvironmentDecorator)]
    merged = dict(variables)
    for decorator in own:
        merged.update({name: str(value) for name, value in decorator.attributes["vars"].items()})
    if not own:
        own = [EnvironmentDecorator(attributes={"vars": {}})]
        decorators.extend(own)
    own[0].attributes["vars"] = merged


def _tell_streams_apart() -> None:
    """Let lines of the remote stderr have a source of their own: Metaflow's command prints those of both to stdout."""
    from metaflow import mflog

    get_log_tailer = mflog.get_log_tailer

    def get_marking_tailer(log_url: str, datastore_type: str) -> Any:
        tailer = get_log_tailer(log_url, datastore_type)
        return _Marking(tailer) if "stderr" in log_url.rpartition("/")[2] else tailer

    _replace_everywhere("get_log_tailer", get_log_tailer, get_marking_tailer)


def _keep_reason(flow_datastore: Any) -> None:
    """Let the command say why a job has failed, and not that one which has stored nothing has no metadata to copy."""
    from metaflow.metadata_provider import util

    copy, get_task_datastore = util.sync_local_metadata_from_datastore, flow_datastore.get_task_datastore

    def get_what_there_is(*arguments: Any, **options: Any) -> Any:
        with contextlib.suppress(DataException):
            return get_task_datastore(*arguments, **options)

    def copy_what_there_is(folder: str, task: Any) -> None:
        if task is not None and task.has_metadata("local_metadata"):
            copy(folder, task)

    flow_datastore.get_task_datastore = get_what_there_is

    _replace_everywhere("sync_local_metadata_from_datastore", copy, copy_what_there_is)


def _replace_everywhere(name: str, function: Any, replacement: Any) -> None:
    """Replace a function of Metaflow's in all modules that have imported it by its name."""
    for module in list(sys.modules.values()):
        if vars(module).get(name) is function:
            setattr(module, name, replacement)


class _Marking:
    """The lines of a log of stderr, with the source that says so.

    Args:
        lines: The lines, as they come.
    """

    def __init__(self, lines: Any):
        self._lines = lines

    def __iter__(self) -> Iterator[bytes]:
        for line in self._lines:
            head, separator, tail = line.partition(b"|task|")
            yield head + b"|" + STDERR_SOURCE + b"|" + tail if separator and head.startswith(b"[MFLOG|") else line
