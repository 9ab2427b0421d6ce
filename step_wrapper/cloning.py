"""A process that clones one task after another in a run that resumes another (`python -m step_wrapper --clones`).

To start a process for each task takes ten times as long as to clone it. This one is forked from a warm process; its
standard input is a socket to the run's process, and at the socket's end it ends. The messages are in
`step_wrapper.wire`.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import TYPE_CHECKING

from dagster_pipes import PipesContext, PipesDefaultContextLoader, PipesDefaultMessageWriter, PipesEnvVarParamsLoader

from step_wrapper import wire
from step_wrapper.launch import Launch
from step_wrapper.logs import flush_output
from step_wrapper.processes import set_killed_at_end_of
from step_wrapper.report.datastore import open_datastore
from step_wrapper.report.registration import open_metadata, register_dagster_run
from step_wrapper.report.report import report_clone
from step_wrapper.step import garbage
from step_wrapper.step.resume import clone_task, read_index

if TYPE_CHECKING:
    from step_wrapper.step.running import Index


def serve() -> int:
    """Clone tasks until the run's process closes its end of the socket, or dies, and return the exit code."""
    garbage.collect_as_usual()
    cloner = _Cloner()
    with socket.socket(fileno=os.dup(sys.stdin.fileno())) as requests:
        while True:
            message, streams, _, _ = socket.recv_fds(requests, wire.MAX_FORK_REQUEST_BYTES, wire.CLONE_DESCRIPTORS)
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
            requests.sendall(wire.CLONED if is_cloned else wire.NOT_CLONED)


class _Cloner:
    """Clones tasks of one run, and knows where the tasks of its origin stand."""

    def __init__(self):
        self._indices: dict[tuple[str, str], Index] = {}

    def clone(self) -> bool:
        """Clone and report the task that the environment describes through Pipes; False if it has to run."""
        params = PipesEnvVarParamsLoader()
        with PipesDefaultContextLoader().load_context(params.load_context_params()) as data:
            launch = Launch(**wire.Request.values_in(data["extras"] or {}))
        index = self._index(launch)
        if launch.resumption is not None and launch.resumption.search is not None:
            launch = launch.resuming(index.origin_run_id)
        metadata = open_metadata(launch)
        cloned_from = clone_task(launch, index, open_datastore(launch, metadata), metadata)
        if cloned_from is None:
            return False
        register_dagster_run(launch, metadata)
        context = PipesContext(params, PipesDefaultContextLoader(), PipesDefaultMessageWriter())
        try:
            report_clone(launch, context, cloned_from)
        finally:
            context.close()
        return True

    def _index(self, launch: Launch) -> Index:
        key = launch.run_id, launch.step
        if key not in self._indices:
            self._indices[key] = read_index(launch)
        return self._indices[key]
