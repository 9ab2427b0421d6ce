"""The background processes of a run on this machine: started, asked to end, and killed."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import dagster as dg
from dagster._grpc.types import ExecuteRunArgs  # how each run launcher of Dagster tells its processes what to run

from metaflow_pipes.errors import DeploymentError
from metaflow_pipes.names import HOME_VARIABLE, PIPES_VARIABLES_PREFIX, WORKER_TAG
from metaflow_pipes.runs import ended
from metaflow_pipes.runs import worker as run_worker
from metaflow_pipes.runs.host_processes import RunWorker
from metaflow_pipes.runs.worker_log import ending_of, log_of
from metaflow_pipes.runtime.automation.ended_runs import definitions_file_of
from step_wrapper.wire import RUN_WORKER_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import IO


_KILL_POLL_SECONDS = 0.02
# How long processes that were killed are waited for; another user's can't be killed.
_KILL_SECONDS = 2


def start(
    instance: dg.DagsterInstance, home: Path, run: dg.DagsterRun, end_op: str, followed_by: str
) -> Callable[[], None]:
    """Start the background processes of a run, and return what lets them begin with it.

    Args:
        instance: The Dagster instance.
        home: Its folder.
        run: The run, which the instance has.
        end_op: The op of the flow's last step.
        followed_by: The definitions file whose sensors act when the run has ended, or the empty string.

    Raises:
        DeploymentError: They can't be started.
    """
    assert run.job_code_origin is not None
    arguments = dg.serialize_value(ExecuteRunArgs(run.job_code_origin, run.run_id, instance.get_ref()))
    # not the PATH's `dagster`, which may be missing, or that of another environment
    command = [sys.executable, "-m", "dagster", "api", "execute_run", arguments]
    log_file = log_of(home, run.run_id)
    log_file.parent.mkdir(exist_ok=True)
    with log_file.open("ab") as log:
        watcher = subprocess.Popen(
            [sys.executable, "-m", run_worker.__name__, run.run_id, end_op, str(log_file), followed_by, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**_environment(), HOME_VARIABLE: str(home), RUN_WORKER_VARIABLE: run.run_id},
            start_new_session=True,
        )
    assert watcher.stdin is not None
    assert watcher.stdout is not None
    with watcher.stdout:
        pid = watcher.stdout.readline()
    if not pid:
        raise DeploymentError(f"The process of run {run.run_id} has ended at once. {ending_of(log_file)}")
    instance.add_run_tags(run.run_id, {WORKER_TAG: RunWorker.of(watcher.pid, int(pid)).tag(run.run_id)})
    # without the line, as when this process dies, the run's process does not begin
    return functools.partial(_let_go_on, watcher.stdin)


def follow_up(home: Path, run: dg.DagsterRun) -> None:
    """Have done in the background what follows a run whose watching process can't see to it any more.

    Args:
        home: The folder of the Dagster instance.
        run: The run, which has ended.
    """
    definitions_file = definitions_file_of(run)
    if definitions_file is None:
        return
    with log_of(home, run.run_id).open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", ended.__name__, run.run_id, str(definitions_file)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**_environment(), HOME_VARIABLE: str(home)},
            start_new_session=True,
        )


def ask_to_end(worker: RunWorker) -> None:
    """Ask a worker that is here to end; another user's is asked by the run's own status.

    The first process watches over the second one and passes that on. Who is asked twice stops waiting for its step.
    """
    for process in worker.living[:1]:
        with contextlib.suppress(PermissionError):
            process.send(signal.SIGTERM)


def kill(worker: RunWorker) -> bool:
    """Kill those processes of a worker that are here, and return whether they have gone."""
    give_up_at = time.monotonic() + _KILL_SECONDS
    while worker.living and time.monotonic() < give_up_at:
        for process in worker.living:
            with contextlib.suppress(PermissionError):
                process.send(signal.SIGKILL)
        time.sleep(_KILL_POLL_SECONDS)
    return not worker.living


def _environment() -> dict[str, str]:
    """The environment of a run: that of who launches it, but for the variables of a step's op, which may be who does.

    Whatever has those variables is ended with the step if its supervisor dies.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith(PIPES_VARIABLES_PREFIX)}


def _let_go_on(pipe: IO[bytes]) -> None:
    """Let what reads a pipe go on."""
    with pipe:
        pipe.write(b"\n")
