"""The Pipes client that launches Metaflow tasks: a supervised process, ended with the op that waits for it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import dagster as dg
from dagster import open_pipes_session

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dagster import AssetExecutionContext, OpExecutionContext, PipesClientCompletedInvocation
    from dagster_pipes import PipesExtras

# The supervisor gives the step 10 s to end itself, and then needs a moment to end it and to save its logs.
TERMINATION_TIMEOUT_SECONDS = 14


class _MessageReader(dg.PipesTempFileMessageReader):
    """Dagster's reader of messages from a temporary file, without its warning in each op.

    Dagster warns that the property it asks for is in preview, unless a reader answers for itself.
    """

    @property
    def expected_writer_count(self) -> int:
        """One: a step has one supervisor."""
        return 1


class MetaflowPipesClient(dg.PipesSubprocessClient):
    """Launches the processes of Metaflow tasks, with the environment variables of all steps.

    It differs from `dagster.PipesSubprocessClient` in three ways. The process is a session of its own and reads
    a pipe that this client holds, so that it notices the end of the op, whatever the reason. When the op is
    interrupted, the process is asked to end, and killed if it doesn't. And the process's exit code is left to the
    caller, because a task's outcome is what Metaflow's datastore says it is.

    Args:
        env: Environment variables of all steps (`step_env`). A `dagster.EnvVar` is looked up in the environment of
            the run when a step starts.
        cwd: The working directory of the steps; by default where the flow was compiled.
        context_injector: As for `dagster.PipesSubprocessClient`.
        message_reader: As for `dagster.PipesSubprocessClient`.
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
            context_injector=context_injector,
            message_reader=message_reader or _MessageReader(),
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
    ) -> PipesClientCompletedInvocation:
        """Run a process in a Pipes session and wait for its end.

        Args:
            context: The context of the op.
            extras: Data for the process, as JSON.
            command: The command.
            env: Variables of this process; they rank above those of the client.
            cwd: The working directory.
            base_env: Variables that rank below those of the client, and above the run's environment.

        Returns:
            What the process reported.

        Raises:
            dagster.Failure: A variable of the run's environment that `env` names is not set.
        """
        environment = {**os.environ, **(base_env or {}), **_resolve(self.env), **_resolve(env or {})}
        with open_pipes_session(
            context=context,
            context_injector=self.context_injector,
            message_reader=self.message_reader,
            extras=extras,
        ) as session:
            environment.update(session.get_bootstrap_env_vars())
            with self._supervised(command, environment, cwd or self.cwd) as process:
                process.wait()
        return dg.PipesClientCompletedInvocation(session)

    @contextlib.contextmanager
    def _supervised(
        self, command: str | Sequence[str], environment: Mapping[str, str], cwd: str | None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Launch a process that ends no later than this context.

        Its standard input is the lifeline: nothing is ever written, and it ends when this process does.
        """
        process = subprocess.Popen(command, cwd=cwd, env=environment, stdin=subprocess.PIPE, start_new_session=True)
        try:
            yield process
        finally:
            if process.poll() is None:
                self._end(process)
            if process.stdin is not None:
                process.stdin.close()

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        try:
            process.wait(timeout=self.termination_timeout_seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _resolve(env: Mapping[str, str]) -> dict[str, str]:
    resolved: dict[str, str] = {}
    for name, value in env.items():
        if isinstance(value, dg.EnvVar):
            found = os.environ.get(value.env_var_name)
            if found is None:
                raise dg.Failure(
                    f"The step's environment variable {name} is to be taken from {value.env_var_name} of the Dagster "
                    f"run's environment, but {value.env_var_name} is not set there. Set it where the run is executed.",
                    allow_retries=False,
                )
            resolved[name] = found
        else:
            resolved[name] = value
    return resolved
