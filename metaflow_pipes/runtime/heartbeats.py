"""The heartbeats of Metaflow runs, by which Metaflow's service knows that a run goes on while none of its tasks runs.

A task sends its own, which the service takes for its run's, too. Between tasks (retry delays, queues of a pool, ops of
others), Metaflow's own runner sends those of the run; here it is the process of the Dagster run, by a process for each
Metaflow run. It ends with the run, and with the run's process, whatever becomes of that.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import dagster as dg

from metaflow_pipes.runtime.client.client import resolved
from metaflow_pipes.runtime.flow import MetaflowFlow
from metaflow_pipes.runtime.ids import metaflow_run_id
from metaflow_pipes.runtime.step_process import StartedProcess, StepLaunch
from step_wrapper import companions

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaflow_pipes.runtime.step_process import StepProcess

# The global variable of definitions files that holds the flow of their ops.
FLOW_VARIABLE = "FLOW"
# The ends of an attempt: till then, its task sends heartbeats, and has registered the run.
_ENDS = frozenset(
    {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.STEP_SUCCESS, dg.DagsterEventType.STEP_UP_FOR_RETRY}
)
# How long a process may take to end, which sends a last heartbeat.
_END_SECONDS = 4


class _Sender(NamedTuple):
    """A process that sends the heartbeats of a Metaflow run, and the socket at whose end it ends."""

    process: StepProcess
    lifeline: socket.socket


class Heartbeats:
    """The heartbeats of the Metaflow runs of one Dagster run, for the executor that runs it.

    Args:
        run: The Dagster run.
        job: Its job.
        instance: The Dagster instance.
        fork: Forks a process of a flow from a warm one, or returns None if that can't be; None if it never can.
    """

    def __init__(
        self,
        run: dg.DagsterRun,
        job: dg.JobDefinition,
        instance: dg.DagsterInstance,
        fork: Callable[[StepLaunch, MetaflowFlow], StepProcess | None] | None = None,
    ):
        self._run = run
        self._job = job
        self._instance = instance
        self._fork = fork or (lambda _launch, _flow: None)
        self._senders: dict[str, _Sender | None] = {}

    def watch(self, event: dg.DagsterEvent) -> None:
        """Begin with the heartbeats of a flow's run when the first attempt of one of its tasks has ended.

        Args:
            event: An event of the run.
        """
        if event.event_type not in _ENDS or event.node_handle is None:
            return
        flow = _flow_of(self._job.get_node(event.node_handle).definition)
        if flow is None or flow.metadata == "local" or flow.name in self._senders:
            return
        self._senders[flow.name] = None
        # without the variables that steps take from the environment, they fail, and say so
        with contextlib.suppress(dg.Failure, OSError):
            self._senders[flow.name] = self._begin(flow)

    def close(self) -> None:
        """Let all of them end."""
        senders = [sender for sender in self._senders.values() if sender is not None]
        self._senders.clear()
        for sender in senders:
            sender.lifeline.close()
        for sender in senders:
            try:
                sender.process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                sender.process.kill_group()
                sender.process.wait()
            sender.process.close()

    def _begin(self, flow: MetaflowFlow) -> _Sender:
        """Start the process for a flow's run, in the environment of its steps."""
        run_id = metaflow_run_id(self._run, self._job, self._instance)
        options = companions.HeartbeatOptions(
            flow=flow.name, run_id=run_id, metadata=flow.metadata, script=str(flow.path)
        )
        environment = {
            **os.environ,
            **flow.environment(os.environ),
            **resolved(flow.step_env),
            "PYTHONUNBUFFERED": "x",
            "METAFLOW_RUN_ID": run_id,
        }
        command = [sys.executable, "-m", "step_wrapper", companions.HEARTBEAT, json.dumps(options)]
        lifeline, lifeline_of_process = socket.socketpair()
        # a step's output would stay open as long as this process runs
        with lifeline_of_process, Path(os.devnull).open("wb") as null:
            launch = StepLaunch(
                command,
                environment,
                flow.folder,
                stdout=null.fileno(),
                stderr=null.fileno(),
                stdin=lifeline_of_process.fileno(),
            )
            try:
                return _Sender(self._fork(launch, flow) or StartedProcess(launch), lifeline)
            except OSError:
                lifeline.close()
                raise


def _flow_of(definition: Any) -> MetaflowFlow | None:
    """The flow of an op: of the definitions file that has its function; None of an op that is no step's."""
    function = getattr(definition, "compute_fn", None)
    function = getattr(function, "decorated_fn", function)
    flow = getattr(function, "__globals__", {}).get(FLOW_VARIABLE)
    return flow if isinstance(flow, MetaflowFlow) else None
