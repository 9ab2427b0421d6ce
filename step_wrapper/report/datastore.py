"""Metaflow's datastore, as an attempt of a task uses it outside of Metaflow's own `step` command."""

from __future__ import annotations

import io
import json
import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from metaflow.datastore import FlowDataStore
from metaflow.datastore.datastore_set import ImmutableBlobCache
from metaflow.datastore.task_datastore import TaskDataStore
from metaflow.mflog import RUNTIME_LOG_SOURCE
from metaflow.plugins import DATASTORES

from step_wrapper.logs import STREAMS, log_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from step_wrapper.launch import Launch


def open_datastore(launch: Launch, metadata: Any = None) -> FlowDataStore:
    """The datastore of the attempt's flow.

    Args:
        launch: The attempt.
        metadata: The metadata provider that gets to know what is stored, if any.
    """
    return datastore_of(launch.flow, launch.datastore, launch.datastore_root, metadata)


def datastore_of(flow: str, datastore: str, root: str, metadata: Any = None) -> FlowDataStore:
    """The datastore of a flow.

    Args:
        flow: The flow's name.
        datastore: The type of the datastore: `local`, `s3`, ...
        root: Its root, an absolute path or a URL.
        metadata: As for `open_datastore`.
    """
    storage = next(storage for storage in DATASTORES if datastore == storage.TYPE)
    opened = FlowDataStore(flow, metadata=metadata, storage_impl=storage, ds_root=root)
    spare_processes(opened)
    return opened


def spare_processes(datastore: FlowDataStore) -> None:
    """Let a datastore on S3 use threads where Metaflow starts processes, which takes longer than what they do."""
    if datastore.TYPE == "s3":
        from step_wrapper.report.s3 import use_threads

        use_threads(datastore)
        if type(datastore) is FlowDataStore:
            datastore.__class__ = FirstAttemptsFirst


# In the pathspec of a task, `run_id/step/task_id`.
_SLASHES = 2


class FirstAttemptsFirst(FlowDataStore):
    """A flow's datastore that asks for three files of a task which was done in its first attempt, not for 18."""

    def get_task_datastores(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, run_id: str | None = None, steps: Any = None, pathspecs: Any = None, **options: Any
    ) -> list[Any]:
        """The `metaflow.datastore.TaskDataStore`s of some tasks, as Metaflow asks for them."""
        get = super().get_task_datastores
        asked = {name for name, value in options.items() if value is not None and value is not False and value != "r"}
        # Metaflow looks at the type of a join in a spin alone
        if not pathspecs or asked - {"join_type"} or any(path.count("/") != _SLASHES for path in pathspecs):
            return get(run_id, steps=steps, pathspecs=pathspecs, **options)
        tasks = self._done_at_once(pathspecs)
        others = [path for path in pathspecs if path not in tasks]
        if others:
            found: list[Any] = get(pathspecs=others)
            tasks.update({task.pathspec: task for task in found})
        return [tasks[path] for path in pathspecs if path in tasks]

    def _done_at_once(self, pathspecs: Sequence[str]) -> dict[str, Any]:
        """Those of the tasks whose first attempt is done, and that have no second one."""
        files = {
            self._storage_impl.path_join(
                self.flow_name, path, TaskDataStore.metadata_name_for_attempt(suffix, attempt)
            ): (path, suffix)
            for path in pathspecs
            for suffix, attempt in (
                (TaskDataStore.METADATA_DONE_SUFFIX, 0),
                (TaskDataStore.METADATA_DATA_SUFFIX, 0),
                (TaskDataStore.METADATA_ATTEMPT_SUFFIX, 1),
            )
        }
        found: dict[str, dict[str, Any]] = {path: {} for path in pathspecs}
        storage: Any = self._storage_impl
        with storage.load_bytes(list(files)) as loaded:
            for file, local, _ in loaded:
                path, suffix = files[file]
                if local is not None:
                    found[path][suffix] = json.loads(Path(local).read_bytes())
        once = {TaskDataStore.METADATA_DONE_SUFFIX, TaskDataStore.METADATA_DATA_SUFFIX}
        return {
            path: self.get_task_datastore(
                *path.split("/"), attempt=0, data_metadata=of_task[TaskDataStore.METADATA_DATA_SUFFIX]
            )
            for path, of_task in found.items()
            if of_task.keys() == once
        }


def done_attempt(datastore: FlowDataStore, run_id: str, step: str, task_id: str, attempt: int) -> Any:
    """The `metaflow.datastore.TaskDataStore` of an attempt that is known to be done.

    Metaflow asks a datastore first which attempts there are, and whether the last one is done: four requests in place
    of one.

    Args:
        datastore: The flow's datastore.
        run_id: The run.
        step: The step's name.
        task_id: The task.
        attempt: The attempt.
    """
    unread: Any = datastore.get_task_datastore(run_id, step, task_id, attempt=attempt, data_metadata={})
    name = unread.METADATA_DATA_SUFFIX
    return datastore.get_task_datastore(
        run_id, step, task_id, attempt=attempt, data_metadata=unread.load_metadata([name])[name]
    )


class StoredTask(NamedTuple):
    """A task of a run, as far as the names of its files tell.

    Attributes:
        step: The step's name.
        task_id: The task.
        attempt: Its last attempt; None if that has not ended.
    """

    step: str
    task_id: str
    attempt: int | None


def stored_tasks(datastore: FlowDataStore, run_id: str, steps: Sequence[str]) -> list[StoredTask]:
    """The tasks of some steps of a run.

    Metaflow's `get_task_datastores` asks for each file that an attempt could have, and for each attempt that a task
    could have: 18 requests for a task. Here the folders are listed.

    Args:
        datastore: The flow's datastore.
        run_id: The run.
        steps: The names of the steps.
    """
    storage: Any = datastore._storage_impl
    started: dict[tuple[str, str], int] = {}
    ended: set[tuple[str, str, int]] = set()
    for path in _files_of_tasks(storage, [storage.path_join(datastore.flow_name, run_id, step) for step in steps]):
        step, task_id, name = storage.path_split(path)[-3:]
        attempt, _, suffix = name.partition(".")
        if suffix == TaskDataStore.METADATA_ATTEMPT_SUFFIX:
            started[step, task_id] = max(int(attempt), started.get((step, task_id), 0))
        elif suffix == TaskDataStore.METADATA_DONE_SUFFIX:
            ended.add((step, task_id, int(attempt)))
    return [StoredTask(*task, last if (*task, last) in ended else None) for task, last in started.items()]


def _files_of_tasks(storage: Any, folders: Sequence[str]) -> list[str]:
    if hasattr(storage, "list_files"):
        return storage.list_files(folders)
    tasks = [entry.path for entry in storage.list_content(folders) if not entry.is_file]
    return [entry.path for entry in storage.list_content(tasks) if entry.is_file]


def read_tasks(
    datastore: FlowDataStore, run_id: str, tasks: Iterable[StoredTask], artifacts: Sequence[str]
) -> list[Any]:
    """The `metaflow.datastore.TaskDataStore`s of tasks that have ended, with some of their artifacts.

    Args:
        datastore: The flow's datastore. It keeps these artifacts, in place of those that it has kept so far.
        run_id: The run.
        tasks: The tasks.
        artifacts: The names of the artifacts to read, of the tasks that have them.
    """
    storage: Any = datastore._storage_impl
    paths: dict[str, StoredTask] = {}
    for task in tasks:
        if task.attempt is not None:
            name = TaskDataStore.metadata_name_for_attempt(TaskDataStore.METADATA_DATA_SUFFIX, task.attempt)
            paths[storage.path_join(datastore.flow_name, run_id, task.step, task.task_id, name)] = task
    if not paths:
        return []
    read: list[Any] = []
    with storage.load_bytes(list(paths)) as files:
        for path, file, _ in files:
            if file is not None:
                read.append(
                    datastore.get_task_datastore(
                        run_id, *paths[path], data_metadata=json.loads(Path(file).read_bytes())
                    )
                )
    keys = {key for task in read for key in task.keys_for_artifacts(artifacts)} - {None}
    blobs: Any = datastore.ca_store.load_blobs(keys)
    datastore.ca_store.set_blob_cache(ImmutableBlobCache(dict(blobs)))
    return read


def inputs_of(datastore: FlowDataStore, paths: Sequence[str]) -> dict[str, set[str]]:
    """The artifacts of the tasks that a task takes: each name with the keys of its values.

    Args:
        datastore: The flow's datastore.
        paths: The tasks, each `run_id/step/task_id`.
    """
    # without an attempt, a task is asked for all that it could have, three files of each; none follows one that is done
    tasks: list[Any] = datastore.get_task_datastores(pathspecs=paths, attempt=0)
    done = {task.pathspec for task in tasks}
    retried = [path for path in paths if path not in done]
    artifacts: dict[str, set[str]] = {}
    for task in [*tasks, *(datastore.get_task_datastores(pathspecs=retried) if retried else ())]:
        for name, key in task.items():
            artifacts.setdefault(name, set()).add(key)
    return artifacts


def save_logs(datastore: FlowDataStore, launch: Launch, folder: Path, sizes: Mapping[str, int] | None = None) -> None:
    """Store the logs of an attempt, in place of what was stored of them before.

    Args:
        datastore: The flow's datastore.
        launch: The attempt.
        folder: The folder with its logs.
        sizes: How much of each stream's log to store, in bytes, while more is being written; None is all of it.
    """
    if sizes is None:
        sizes = {stream: log_path(folder, stream).stat().st_size for stream in STREAMS}
    task: Any = datastore.get_task_datastore(
        launch.run_id, launch.step, launch.task_id, attempt=launch.attempt, mode="w"
    )
    # an empty file can't be mapped
    contents = {stream: _MappedFile(log_path(folder, stream), size) if size else b"" for stream, size in sizes.items()}
    task.save_logs(RUNTIME_LOG_SOURCE, contents)


class _MappedFile(io.RawIOBase):
    """A file that Metaflow's storages can read all at once, as most of them do, without having it in memory.

    Args:
        path: The file.
        size: How much of it there is to read, in bytes; not 0.
    """

    def __init__(self, path: Path, size: int):
        with path.open("rb") as file:
            self._content = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._content.seek(offset, whence)  # pyright: ignore[reportArgumentType]
        return self._content.tell()

    def read(self, size: int | None = -1) -> bytes | mmap.mmap:  # pyright: ignore[reportIncompatibleMethodOverride]
        if size is not None and size >= 0:
            return self._content.read(size)
        if self._content.tell() > 0:
            return self._content.read()
        self._content.seek(0, io.SEEK_END)
        return self._content
