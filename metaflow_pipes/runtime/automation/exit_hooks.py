"""`@exit_hook`: functions of the user's that run when a run has ended, by Metaflow's own runner for them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import dagster as dg

from metaflow_pipes.names import NAMESPACE_TAG, PIPES_VARIABLES_PREFIX
from metaflow_pipes.run_ids import metaflow_run_id_of
from metaflow_pipes.runtime.automation.ended_runs import EndedRunSensor
from metaflow_pipes.runtime.automation.follow_ups import FollowUp, Outcome
from metaflow_pipes.runtime.client.client import resolved
from metaflow_pipes.runtime.run_options import inherited_tags

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dagster import DagsterInstance, DagsterRun

    from metaflow_pipes.runtime.code import CodePlace, FlowCode
    from metaflow_pipes.runtime.flow import MetaflowFlow

# How long a hook may take where the flow says nothing; and how long it has to end when it is asked to.
TIMEOUT_SECONDS = 600
KILL_GRACE_SECONDS = 5
# How much of the end of its output is shown.
SHOWN_BYTES = 10_000
_RUNNER = "metaflow.plugins.exit_hook.exit_hook_script"
# The runner, in a namespace that is not that of the user or of the production token: Metaflow has no variable for it.
_IN_NAMESPACE = (
    f"import sys, metaflow; metaflow.namespace(sys.argv.pop(1)); from {_RUNNER} import main; main(*sys.argv[1:])"
)


def exit_hook_sensor(
    flow: MetaflowFlow,
    job: dg.JobDefinition,
    *,
    on_success: Sequence[str] = (),
    on_error: Sequence[str] = (),
    timeout_seconds: int = TIMEOUT_SECONDS,
    paused: bool = False,
) -> dg.SensorDefinition:
    """The sensor `<job>_exit_hooks`, which runs the exit hooks of a flow, each once after a run.

    Args:
        flow: The flow.
        job: Its job.
        on_success: The hooks after a success: names of functions of the flow file, and import paths.
        on_error: The hooks after a failure, or when a run was canceled.
        timeout_seconds: How long a hook may take. Then it is ended, and counts as failed.
        paused: Whether the sensor is deployed stopped.
    """
    hooks = ExitHooks(
        name=f"{job.name}_exit_hooks",
        job=job.name,
        last_op=flow.steps[-1].op_name,
        flow=flow.name,
        code=flow.code,
        namespace=flow.namespace,
        environment={**flow.environment(os.environ), **_client_environment(flow)},
        step_env=_step_env(flow, job),
        on_success=tuple(on_success),
        on_error=tuple(on_error),
        timeout_seconds=timeout_seconds,
    )
    return EndedRunSensor(
        flow, job, hooks, description=f"Runs the functions of @exit_hook of {flow.name}.", paused=paused
    )


@dataclass(frozen=True)
class ExitHooks(FollowUp):
    """The exit hooks of a flow.

    Attributes:
        flow: The flow's name.
        code: The flow's code.
        namespace: The Metaflow namespace of the flow's steps; None is that of the production token.
        environment: Their variables beyond those of this process.
        step_env: The variables of all steps, which rank above those.
        on_success: The hooks after a success.
        on_error: The hooks after any other end.
        timeout_seconds: How long each may take.
    """

    flow: str
    code: FlowCode
    namespace: str | None
    environment: Mapping[str, str]
    step_env: Mapping[str, str]
    on_success: tuple[str, ...]
    on_error: tuple[str, ...]
    timeout_seconds: int

    def is_due(self, status: dg.DagsterRunStatus) -> bool:
        """As `FollowUp.is_due`."""
        return bool(self._hooks(status))

    def limit_seconds(self, status: dg.DagsterRunStatus) -> float:
        """As `FollowUp.limit_seconds`."""
        return len(self._hooks(status)) * (self.timeout_seconds + 2 * KILL_GRACE_SECONDS)

    def act(self, instance: DagsterInstance, run: DagsterRun) -> Iterator[Outcome]:
        """Run the hooks, one after the other."""
        own = inherited_tags(instance, run, (NAMESPACE_TAG,)).get(NAMESPACE_TAG)
        namespace = self.namespace if own is None else own
        runner = ["-m", _RUNNER] if namespace is None else ["-c", _IN_NAMESPACE, namespace]
        run_id = metaflow_run_id_of(run.run_id, run.tags, is_selection=bool(run.step_keys_to_execute))
        for hook in self._hooks(run.status):
            yield self._run(runner, hook, f"{self.flow}/{run_id}")

    def _hooks(self, status: dg.DagsterRunStatus) -> tuple[str, ...]:
        return self.on_success if status == dg.DagsterRunStatus.SUCCESS else self.on_error

    def _run(self, runner: Sequence[str], hook: str, pathspec: str) -> Outcome:
        started = time.monotonic()
        with tempfile.TemporaryFile() as output:
            try:
                environment = self._environment()
                place = self.code.provide(environment)
                process = subprocess.Popen(
                    [sys.executable, *runner, place.file, hook, pathspec],
                    cwd=place.folder,
                    env=_beside(place, environment),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except (OSError, dg.Failure) as error:
                return Outcome(f"Exit hook {hook} could not be started.", str(getattr(error, "description", error)))
            has_ended = _wait(process, self.timeout_seconds)
            seconds, shown = time.monotonic() - started, _end_of(output)
        if not has_ended:
            return Outcome(f"Exit hook {hook} was ended, because it took longer than {self.timeout_seconds} s.", shown)
        if process.returncode < 0:
            return Outcome(f"Exit hook {hook} was killed by signal {-process.returncode}.", shown)
        if process.returncode:
            return Outcome(f"Exit hook {hook} failed with exit code {process.returncode}.", shown)
        said = f" It has printed:\n{shown}" if shown else ""
        return Outcome(f"Exit hook {hook} finished after {seconds:.1f} s.{said}")

    def _environment(self) -> dict[str, str]:
        """The environment of a hook: that of a step, but for what only a step has."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(PIPES_VARIABLES_PREFIX)}
        return {**own, **self.environment, **resolved(self.step_env), "PYTHONUNBUFFERED": "x"}


def _beside(place: CodePlace, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a hook that finds the modules beside the flow file, as `python flow.py step` does."""
    found = {**environment, **place.environment}
    folders = [os.path.dirname(place.file), found.get("PYTHONPATH", "")]  # noqa: PTH120 - a string
    return {**found, "PYTHONPATH": os.pathsep.join(filter(None, folders))}


def _client_environment(flow: MetaflowFlow) -> dict[str, str]:
    """Variables for what a step has as options: by them, Metaflow's client finds the run."""
    metadata = [argument.partition("=")[2] for argument in flow.top_level_args if argument.startswith("--metadata=")]
    environment = {"METAFLOW_DEFAULT_DATASTORE": flow.datastore}
    if metadata:
        environment["METAFLOW_DEFAULT_METADATA"] = metadata[-1]
    if flow.datastore != "local":
        environment[f"METAFLOW_DATASTORE_SYSROOT_{flow.datastore.upper()}"] = flow.root
    return environment


def _step_env(flow: MetaflowFlow, job: dg.JobDefinition) -> Mapping[str, str]:
    """The variables of all steps; in files of formats 1 and 2, the job's Pipes client has them."""
    if "pipes" not in job.resource_defs:
        return flow.step_env
    # its definition holds the client itself, and makes it of no context
    make_client: Any = job.resource_defs["pipes"].resource_fn
    return make_client(None).env


def _wait(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait for a process, end it and what it has started if that takes too long, and return whether it has ended."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(KILL_GRACE_SECONDS)
        return False
    return True


def _end_of(file: IO[bytes]) -> str:
    file.seek(max(0, file.seek(0, os.SEEK_END) - SHOWN_BYTES))
    return file.read().decode(errors="replace").strip()
