"""Metaflow's datastore, as an attempt of a task uses it outside of Metaflow's own `step` command."""

from __future__ import annotations

import io
import mmap
from typing import TYPE_CHECKING, Any

from metaflow.datastore import FlowDataStore
from metaflow.mflog import RUNTIME_LOG_SOURCE
from metaflow.plugins import DATASTORES

from step_wrapper.logs import STREAMS, log_path

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

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
    return FlowDataStore(flow, metadata=metadata, storage_impl=storage, ds_root=root)


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
