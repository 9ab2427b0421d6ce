"""A process that clones one task after another in a run that resumes another (`python -m step_wrapper --clones`).

To start a process for each task takes ten times as long as to clone it. This one is forked from a warm process; its
standard input is a socket to the run's process, and at the socket's end it ends. The messages are in
`step_wrapper.companions`.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from dagster_pipes import PipesContext, PipesDefaultContextLoader, PipesDefaultMessageWriter, PipesEnvVarParamsLoader
from metaflow.datastore.content_addressed_store import BlobCache

from step_wrapper import companions, wire
from step_wrapper.launch import Launch
from step_wrapper.logs import flush_output
from step_wrapper.processes import set_killed_at_end_of
from step_wrapper.report.datastore import inputs_of, open_datastore
from step_wrapper.report.registration import open_metadata, register_dagster_run
from step_wrapper.report.report import report_clone
from step_wrapper.step import garbage
from step_wrapper.step.resume import clone_task, read_index

if TYPE_CHECKING:
    from collections.abc import Mapping

    from metaflow.datastore import FlowDataStore

    from step_wrapper.step.running import Index

# How many artifacts a process keeps, and how large they may be, in bytes.
MOST_BLOBS = 200
MOST_BLOB_BYTES = 10_000


def serve() -> int:
    """Clone tasks until the run's process closes its end of the socket, or dies, and return the exit code."""
    garbage.collect_as_usual()
    cloner = _Cloner()
    with socket.socket(fileno=os.dup(sys.stdin.fileno())) as requests:
        while True:
            message, streams, _, _ = socket.recv_fds(
                requests, companions.MAX_FORK_REQUEST_BYTES, companions.CLONE_DESCRIPTORS
            )
            if not message:
                return 0
            for number, descriptor in enumerate(streams, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)
            os.environ.update(json.loads(message))
            set_killed_at_end_of(requests, True)
            try:
                is_cloned = cloner.clone()
            except Exception:
                # of any kind: the task's own process comes upon the same, and reports it
                is_cloned = False
            set_killed_at_end_of(requests, False)
            flush_output()
            requests.sendall(companions.CLONED if is_cloned else companions.NOT_CLONED)


class _Opened(NamedTuple):
    """The clients that clones of one run share: one alone takes longer to make than to be asked."""

    datastore: FlowDataStore
    metadata: Any


class _Cloner:
    """Clones tasks of one run, and knows where the tasks of its origin stand."""

    def __init__(self):
        self._opened: dict[str, _Opened] = {}
        self._indices: dict[tuple[str, str], Index] = {}
        # of the inputs that were read last: the items of a foreach have the same
        self._inherited: tuple[list[str], Mapping[str, set[str]]] = ([], {})

    def clone(self) -> bool:
        """Clone and report the task that the environment describes through Pipes; False if it has to run."""
        params = PipesEnvVarParamsLoader()
        with PipesDefaultContextLoader().load_context(params.load_context_params()) as data:
            launch = Launch(**wire.Request.values_in(data["extras"] or {}))
        datastore, metadata = self._open(launch)
        index = self._index(launch)
        if launch.resumption is not None and launch.resumption.search is not None:
            launch = launch.resuming(index.origin_run_id)
        clone = clone_task(launch, index, datastore, metadata)
        if clone is None:
            return False
        register_dagster_run(launch, metadata)
        context = PipesContext(params, PipesDefaultContextLoader(), PipesDefaultMessageWriter())
        try:
            report_clone(launch, context, clone, datastore, self._inputs(launch))
        finally:
            context.close()
        return True

    def _open(self, launch: Launch) -> _Opened:
        if launch.run_id not in self._opened:
            metadata = open_metadata(launch)
            datastore = open_datastore(launch, metadata)
            datastore.ca_store.set_blob_cache(_SmallBlobs())
            self._opened[launch.run_id] = _Opened(datastore, metadata)
        return self._opened[launch.run_id]

    def _index(self, launch: Launch) -> Index:
        key = launch.run_id, launch.step
        if key not in self._indices:
            self._indices[key] = read_index(launch, self._open(launch).datastore)
        return self._indices[key]

    def _inputs(self, launch: Launch) -> Mapping[str, set[str]]:
        if self._inherited[0] != launch.input_paths:
            self._inherited = launch.input_paths, inputs_of(self._open(launch).datastore, launch.input_paths)
        return self._inherited[1]


class _SmallBlobs(BlobCache):
    """The last small artifacts that were read: many tasks share those by which the graph goes on."""

    def __init__(self):
        self._blobs: dict[str, bytes] = {}

    def load_key(self, key: str) -> Any:
        return self._blobs.get(key)

    def store_key(self, key: str, blob: bytes) -> None:
        if len(blob) <= MOST_BLOB_BYTES:
            self._blobs[key] = blob
            if len(self._blobs) > MOST_BLOBS:
                del self._blobs[next(iter(self._blobs))]
