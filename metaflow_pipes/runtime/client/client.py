"""The Pipes client that launches Metaflow tasks: a supervised process, ended with the op that waits for it."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import socket
import subprocess
import tempfile
from typing import IO, TYPE_CHECKING

import dagster as dg
from dagster import open_pipes_session

from metaflow_pipes.runtime import step_thread
from metaflow_pipes.runtime.assets.events import publisher
from metaflow_pipes.runtime.client import orphans
from metaflow_pipes.runtime.client.messages import ContextInjector, MessageReader
from metaflow_pipes.runtime.client.run_watch import RunWatch
from metaflow_pipes.runtime.remote import noting_jobs
from metaflow_pipes.runtime.step_process import StartedProcess, StepLaunch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from dagster import AssetExecutionContext, OpExecutionContext, PipesClientCompletedInvocation
    from dagster_pipes import PipesExtras

    from metaflow_pipes.runtime.flow import MetaflowFlow
    from metaflow_pipes.runtime.step_process import StepProcess
    from metaflow_pipes.runtime.step_thread import StepThread
    from step_wrapper.wire import Job

# The supervisor gives the step 10 s to end itself, needs up to 6 s to end what it leaves behind, up to 8 s to delete a
# job on another system, and gives up after 8 s to store its logs and its outcome in a datastore that can't be reached.
# Usually it takes a moment.
TERMINATION_TIMEOUT_SECONDS = 34
# How long the process that waits for a job has to delete it when its supervisor was killed.
JOB_END_SECONDS = 8

# The entries of an invocation's metadata for an exit code that is not 0, and for stderr where that is kept.
EXIT_CODE = "exit_code"
STDERR = "stderr"
MAX_STDERR_BYTES = 20_000


class MetaflowPipesClient(dg.PipesSubprocessClient):
    """Launches the processes of Metaflow tasks, with the environment variables of all steps.

    It differs from `dagster.PipesSubprocessClient` in three ways. The process is a session of its own and reads
    a pipe that this client holds, so that it notices the end of the op, whatever the reason. When the op is
    interrupted, or its run is over, the process is asked to end, and killed if it doesn't. And the process's exit code
    is left to the caller, because a task's outcome is what Metaflow's datastore says it is.

    Args:
        env: Environment variables of all steps (`step_env`). A `dagster.EnvVar` is looked up in the environment of
            the run when a step starts.
        cwd: The working directory of the steps; by default where the flow was compiled.
        context_injector: As for `dagster.PipesSubprocessClient`; by default one by a private file.
        message_reader: As for `dagster.PipesSubprocessClient`; by default one that no message can stop. Both
            defaults are in `metaflow_pipes.runtime.client.messages`.
    """

    def __init__(
        self,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        context_injector: dg.PipesContextInjector | None = None,
        message_reader: dg.PipesMessageReader | None = None,
    ):
        super().__init__(
            env=env,
            cwd=cwd,
            context_injector=context_injector or ContextInjector(),
            message_reader=message_reader or MessageReader(),
            termination_timeout_seconds=TERMINATION_TIMEOUT_SECONDS,
        )

    def run(
        self,
        *,
        context: OpExecutionContext | AssetExecutionContext,
        extras: PipesExtras | None = None,
        command: str | Sequence[str],
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        base_env: Mapping[str, str] | None = None,
        keep_stderr: bool = False,
        flow: MetaflowFlow | None = None,
        may_be_cloned: bool = False,
        on_launch: Callable[[], None] | None = None,
    ) -> PipesClientCompletedInvocation:
        """Run a process in a Pipes session and wait for its end.

        Args:
            context: The context of the op.
            extras: Data for the process, as JSON.
            command: The command.
            env: Variables of this process; they rank above those of the client.
            cwd: The working directory.
            base_env: Variables that rank below those of the client, and above the run's environment.
            keep_stderr: Whether to keep the end of the process's stderr, which is then passed on at its end only.
            flow: The flow, if the command runs a step of it, which a warm process can fork; else None.
            may_be_cloned: Whether the step may be one that is cloned, which another process than its own can do.
            on_launch: Called before the command is launched; never if another process has cloned the step.

        Returns:
            What the process reported; its exit code, unless that is 0, is the entry `exit_code` of the metadata, and
            the end of its stderr the entry `stderr`, if it is kept.

        Raises:
            dagster.Failure: A variable of the run's environment that `env` names is not set.
            dagster.DagsterExecutionInterruptedError: The run is to end, or has ended.
        """
        environment = {**os.environ, **(base_env or {}), **resolved(self.env), **resolved(env or {})}
        watch = RunWatch(context)
        watch.check()
        # the events that the step publishes are not to wait for its end
        jobs: list[Job] = []
        publish = noting_jobs(jobs, publisher(context))
        reader = MessageReader(publish) if type(self.message_reader) is MessageReader else None
        with (
            _kept(keep_stderr) as kept,
            open_pipes_session(
                context=_SessionContext(context.get_step_execution_context()),
                context_injector=self.context_injector,
                message_reader=reader or self.message_reader,
                extras=extras,
            ) as session,
        ):
            bootstrap = session.get_bootstrap_env_vars()
            environment.update(bootstrap)
            orphans.end_with_run_worker()
            thread = step_thread.current()
            stderr = thread.stderr if kept is None else kept.fileno()
            launch = StepLaunch(list(command), environment, cwd or self.cwd, thread.stdout, stderr)
            fork = _forking(context, thread, flow)
            if may_be_cloned and thread.cloners is not None and thread.cloners.clone(launch, fork, thread.waits_for):
                return dg.PipesClientCompletedInvocation(session)
            if on_launch is not None:
                on_launch()
            with (
                self._supervised(launch, fork) as process,
                watch.ends(functools.partial(self._end, process)),
                thread.waits_for(process),
            ):
                exit_code = process.wait()
            if exit_code < 0:
                # the process that waits for a job deletes it when its supervisor dies
                patience_seconds = JOB_END_SECONDS if jobs else 0
                count = orphans.kill_orphans(process.pid, bootstrap, patience_seconds)
                context.log.warning(
                    f"The supervisor of the step's process was killed by signal {-exit_code}"
                    + (f", and {count} process(es) that it left behind have been killed." if count else ".")
                )
            metadata: dict[str, dg.MetadataValue] = {}
            if exit_code:
                metadata[EXIT_CODE] = dg.MetadataValue.int(exit_code)
            if kept is not None:
                metadata[STDERR] = dg.MetadataValue.text(_end_of(kept))
        return dg.PipesClientCompletedInvocation(session, metadata or None)

    @contextlib.contextmanager
    def _supervised(
        self, launch: StepLaunch, fork: Callable[[StepLaunch], StepProcess | None]
    ) -> Iterator[StepProcess]:
        """Launch a process that ends no later than this context.

        Its standard input is the lifeline: nothing is ever written, and it ends when this process does.
        """
        step_thread.current().check()
        lifeline, lifeline_of_process = socket.socketpair()
        with lifeline:
            with lifeline_of_process:
                launch = launch._replace(stdin=lifeline_of_process.fileno())
                process = fork(launch) or StartedProcess(launch)
            try:
                yield process
            finally:
                if process.poll() is None:
                    self._end(process)
                process.close()

    def _end(self, process: StepProcess) -> None:
        process.terminate()
        try:
            process.wait(timeout=self.termination_timeout_seconds)
        except subprocess.TimeoutExpired:
            process.kill_group()
            process.wait()


class _SessionContext(dg.OpExecutionContext):
    """The context of an op for a Pipes session: that of a job's op, also in a run of assets.

    Pipes would have the op put out what the session reports, and all of it: of a switch, each way. And it would let the
    step's code report on no asset but those of its own flow.
    """

    @property
    def has_assets_def(self) -> bool:
        return False


def _forking(
    context: OpExecutionContext | AssetExecutionContext, thread: StepThread, flow: MetaflowFlow | None
) -> Callable[[StepLaunch], StepProcess | None]:
    """The function that forks a step's process from a warm one, or returns None if that can't be."""
    warm_processes = thread.warm_processes
    if flow is None or warm_processes is None:
        return lambda _: None
    return lambda launch: warm_processes.fork(launch, flow.datastore, str(flow.path), context.log.warning)


def exit_code_of(invocation: dg.PipesClientCompletedInvocation) -> int:
    """The exit code of a process that has ended; a negative number is the signal that killed it."""
    value = invocation.metadata.get(EXIT_CODE)
    return value.value if isinstance(value, dg.IntMetadataValue) and value.value is not None else 0


def stderr_of(invocation: dg.PipesClientCompletedInvocation) -> str:
    """The end of the stderr of a process that has ended, if it was kept; else empty."""
    value = invocation.metadata.get(STDERR)
    return value.value or "" if isinstance(value, dg.TextMetadataValue) else ""


@contextlib.contextmanager
def _kept(keep_stderr: bool) -> Iterator[IO[bytes] | None]:
    """A file for the stderr of a process, if that is to be kept; passed on to where it would have gone."""
    if not keep_stderr:
        yield None
        return
    with tempfile.TemporaryFile() as file:
        yield file
        file.seek(0)
        descriptor = step_thread.current().stderr
        with contextlib.suppress(OSError), open(2 if descriptor is None else descriptor, "wb", closefd=False) as stderr:
            shutil.copyfileobj(file, stderr)


def _end_of(file: IO[bytes]) -> str:
    file.seek(max(0, file.seek(0, os.SEEK_END) - MAX_STDERR_BYTES))
    return file.read().decode(errors="replace").rstrip()


def plain(env: Mapping[str, str]) -> dict[str, str]:
    """Variables without those that are looked up in the run's environment, which may be secrets."""
    return {name: value for name, value in env.items() if not isinstance(value, dg.EnvVar)}


def resolved(env: Mapping[str, str]) -> dict[str, str]:
    """Variables with their values: a `dagster.EnvVar` is looked up in the environment of this process.

    Raises:
        dagster.Failure: A variable that is looked up is not set.
    """
    values: dict[str, str] = {}
    for name, value in env.items():
        if isinstance(value, dg.EnvVar):
            found = os.environ.get(value.env_var_name)
            if found is None:
                raise dg.Failure(
                    f"The step's environment variable {name} is to be taken from {value.env_var_name} of the Dagster "
                    f"run's environment, but {value.env_var_name} is not set there. Set it where the run is executed.",
                    allow_retries=False,
                )
            values[name] = found
        else:
            values[name] = value
    return values
