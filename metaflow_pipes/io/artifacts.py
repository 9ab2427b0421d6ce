"""The artifacts and tasks behind an asset, read in the process that asks for them.

This is the one place of Dagster's side that imports Metaflow when a flow runs, and it does so when it first reads.
Artifacts come straight from the datastore: nothing of Metaflow's client, which is one for the whole process, changes.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metaflow_pipes.io.store import ArtifactStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# The parts of the pathspec of a task, `Flow/run_id/step/task_id`; that of a step has one less.
TASK_PARTS = 4
# How many of a task's artifacts the message of an error names.
MAX_NAMED_ARTIFACTS = 50


class ReadError(Exception):
    """The task or artifact behind an asset can't be read; says why, and what to do."""


@dataclass(frozen=True)
class Source:
    """The tasks that an asset stands for.

    Attributes:
        pathspec: `Flow/run_id/step/task_id` of its task; `Flow/run_id/step` of a step in a foreach or with
            `num_parallel`, for all of its tasks.
        store: Where it is.
    """

    pathspec: str
    store: ArtifactStore

    @property
    def is_task(self) -> bool:
        """Whether it is one task."""
        return len(self.pathspec.split("/")) == TASK_PARTS

    def artifact(self, name: str) -> Any:
        """The value of an artifact; of a step in a foreach, a list in the order of its items.

        Args:
            name: The artifact's name.

        Raises:
            ReadError: The task is gone or has not succeeded, or it has no such artifact.
        """
        if _other_settings(self.store.settings):
            return self._in_another_process(name)
        values = [_artifact(self.store, task, name) for task in self._tasks()]
        return values[0] if self.is_task else values

    def tasks(self) -> Any:
        """The task, as Metaflow's client has it; of a step in a foreach, a list in the order of its items.

        A task reads its artifacts when they are asked for, by the client of this process. That is switched to the
        metadata provider of the flow, as by `metaflow.metadata`.

        Raises:
            ReadError: The task is gone or has not succeeded, or the client of this process can't read it.
        """
        import metaflow
        from metaflow.exception import MetaflowNotFound

        other = _other_settings(self.store.settings)
        if other:
            raise ReadError(
                f"The Metaflow client of this process can't read {self.pathspec}, which is in the "
                f"{self.store.datastore} datastore {self.store.root}: start the process with "
                f"{' '.join(f'{setting}={value}' for setting, value in other.items())}, or name an artifact, which is "
                "read with these settings anyway."
            )
        flow = self.pathspec.split("/")[0]
        pathspecs = [f"{flow}/{task.pathspec}" for task in self._tasks()]
        provider = self.store.metadata_provider
        try:
            if provider is not None and metaflow.get_metadata() != provider:
                metaflow.metadata(provider)
            found = [metaflow.Task(pathspec, _namespace_check=False) for pathspec in pathspecs]
        except (MetaflowNotFound, ValueError) as error:
            raise ReadError(
                f"Metaflow's metadata of {self.pathspec} can't be read from {provider or metaflow.get_metadata()}: "
                f"{error}. Name an artifact, which is read from the datastore alone, or materialize the asset anew."
            ) from None
        return found[0] if self.is_task else found

    def _tasks(self) -> list[Any]:
        """The datastores of the tasks that have succeeded, in the order of their items."""
        from metaflow.datastore import FlowDataStore
        from metaflow.datastore.exceptions import DataException
        from metaflow.plugins import DATASTORES

        flow, run_id, step, *task = self.pathspec.split("/")
        storage = next((storage for storage in DATASTORES if self.store.datastore == storage.TYPE), None)
        if storage is None:
            raise ReadError(
                f"{self.pathspec} is in a datastore of the type {self.store.datastore}, which Metaflow does not know "
                "here. Install the same Metaflow extensions as where the flow runs."
            )
        datastore = FlowDataStore(flow, storage_impl=storage, ds_root=self.store.root)
        tasks: list[Any]
        try:
            if task:
                tasks = [datastore.get_task_datastore(run_id, step, task[0])]
            else:
                tasks = _in_order(datastore.get_task_datastores(run_id, steps=[step]))
        except DataException:
            tasks = []
        if not tasks:
            raise ReadError(
                f"{self.pathspec} is not in the {self.store.datastore} datastore {self.store.root} any more: its run "
                "was deleted, or it has never been done. Materialize the asset anew."
            )
        for found in tasks:
            if "_task_ok" in found and not found["_task_ok"]:
                raise ReadError(
                    f"Metaflow task {flow}/{found.pathspec} has failed, so its artifacts are not what the asset stands "
                    "for. Materialize the asset anew."
                )
        return tasks

    def _in_another_process(self, name: str) -> Any:
        """An artifact, read by a process that has the settings of the store: Metaflow reads them when it starts."""
        request = {
            "pathspec": self.pathspec,
            "artifact": name,
            "datastore": self.store.datastore,
            "root": self.store.root,
        }
        finished = subprocess.run(
            [sys.executable, "-m", "metaflow_pipes.io", json.dumps(request)],
            env={**os.environ, **self.store.settings, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            check=False,
        )
        if finished.returncode != 0:
            raise ReadError(
                f"Artifact {name} of {self.pathspec} can't be read by a process with the settings "
                f"{', '.join(sorted(self.store.settings))}: it ended with exit code {finished.returncode}, and its "
                "stderr says why."
            )
        answer = pickle.loads(finished.stdout)  # noqa: S301 - our own process wrote it, of what the flow has pickled
        if isinstance(answer, ReadError):
            raise answer
        return answer


def answer(request: str) -> bytes:
    """The answer of the other process: a pickled artifact, or the pickled error.

    Args:
        request: What is asked for, as JSON.
    """
    asked = json.loads(request)
    source = Source(asked["pathspec"], ArtifactStore(asked["datastore"], asked["root"]))
    try:
        return pickle.dumps(source.artifact(asked["artifact"]))
    except ReadError as error:
        return pickle.dumps(error)


def _artifact(store: ArtifactStore, task: Any, name: str) -> Any:
    if name not in task:
        names = sorted(known for known in task if not known.startswith("_"))
        more = f" and {len(names) - MAX_NAMED_ARTIFACTS} more" if len(names) > MAX_NAMED_ARTIFACTS else ""
        shown = ", ".join(names[:MAX_NAMED_ARTIFACTS]) + more
        raise ReadError(
            f"Metaflow task {task.pathspec} in the {store.datastore} datastore {store.root} has no artifact {name}. "
            + (f"It has these: {shown}." if names else "It has none at all.")
        )
    return task[name]


def _in_order(tasks: Iterable[Any]) -> list[Any]:
    """The tasks of a step in a foreach in the order of its items, each item's last one.

    An item has several tasks if the step is recursive, or if it was run again in a re-execution.
    """
    newest: dict[tuple[int, ...], Any] = {}
    for task in sorted(tasks, key=_started_at):
        newest[tuple(frame.index for frame in task["_foreach_stack"])] = task
    return [newest[indices] for indices in sorted(newest)]


def _started_at(task: Any) -> float:
    """The time when the attempt began, in seconds since 1970."""
    name = task.METADATA_ATTEMPT_SUFFIX
    return task.load_metadata([name])[name]["time"]


def _other_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """The settings that Metaflow does not have in this process."""
    from metaflow.metaflow_config_funcs import from_conf

    prefix = "METAFLOW_"
    return {name: value for name, value in settings.items() if from_conf(name.removeprefix(prefix)) != value}
