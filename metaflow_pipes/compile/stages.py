"""The compiler's first two stages, read and lower, in this process or in one that the flow file is run in.

The other process is `python flow.py dagster compile FOLDER`, a hidden command. It finds in the folder what is asked of
it, and leaves its answer there.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaflow_pipes.compile.lowering import lower
from metaflow_pipes.errors import CompileError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from metaflow_pipes.compile.job_model import JobModel
    from metaflow_pipes.compile.job_options import JobOptions

# The files in the folder of the hidden command.
REQUEST = "request.pickle"
ANSWER = "answer.pickle"


@dataclass(frozen=True)
class CompileRequest:
    """All that is asked of the compiler, beside the flow.

    Attributes:
        options: The options of the job.
        decospecs: Decorators for every step, as in `run --with`.
        with_first_token: Whether the job gets the production token of its first deployment, by who answers the request.
    """

    options: JobOptions
    decospecs: tuple[str, ...] = ()
    with_first_token: bool = False


def compile_flow(state: Any, request: CompileRequest) -> JobModel:
    """Compile the flow of a Metaflow command.

    Args:
        state: Metaflow's `CliState`, as for `read_flow`.
        request: What is asked for.

    Raises:
        MetaflowException: As for `read_flow`.
        CompileError: As for `read_flow`, `lower` and `packaged`.
    """
    from metaflow_pipes.compile.packaging import packaged
    from metaflow_pipes.compile.reader import has_mutators, own_top_level_options, read_flow

    if has_mutators(state, request.decospecs):
        # They have run before this command began. Only another process can show them the new decorators: `--with`
        # behind `run` ranks above the same option before it, so those come first.
        python, flow_file = state.entrypoint[0], state.entrypoint[-1]
        options = [*(f"--with={spec}" for spec in request.decospecs), *own_top_level_options()]
        return compile_file(python, flow_file, options, CompileRequest(request.options))
    return packaged(lower(read_flow(state, request.decospecs), request.options), state)


def compile_file(
    python: str,
    flow_file: str | Path,
    top_level_options: Sequence[str],
    request: CompileRequest,
    folder: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> JobModel:
    """Compile a flow in a process of its own, where nothing of it stays behind in this one.

    Args:
        python: The interpreter.
        flow_file: The flow file.
        top_level_options: Metaflow's options before its command.
        request: What is asked for.
        folder: Where the flow is compiled, and its steps will run; None is the working directory.
        environment: Variables for that, beyond those of this process.

    Raises:
        CompileError: As for `compile_flow`; or the flow can't be read, and the message has the process's output.
    """
    with tempfile.TemporaryDirectory() as exchange:
        Path(exchange, REQUEST).write_bytes(pickle.dumps(request))
        command = [python, str(flow_file), *top_level_options, "dagster", "compile", exchange]
        finished = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        answer_file = Path(exchange, ANSWER)
        if finished.returncode != 0 or not answer_file.is_file():
            raise CompileError(f"The flow in {flow_file} can't be read:\n{finished.stdout.strip()}")
        answer = pickle.loads(answer_file.read_bytes())  # noqa: S301 - our own process wrote it, in a private folder
    if isinstance(answer, CompileError):
        raise answer
    return answer


def answer_request(state: Any, folder: str, with_first_token: Callable[[JobModel], JobModel]) -> None:
    """The hidden command's part: compile the flow as another process asks in a folder.

    Args:
        state: Metaflow's `CliState`, as for `read_flow`.
        folder: The folder.
        with_first_token: Gives a job the production token of its first deployment, if that is asked for.

    Raises:
        MetaflowException: As for `read_flow`; the other process shows what Metaflow prints of it.
    """
    request = pickle.loads(Path(folder, REQUEST).read_bytes())  # noqa: S301 - as above
    try:
        answer = compile_flow(state, request)
        if request.with_first_token:
            answer = with_first_token(answer)
    except CompileError as error:
        answer = error
    Path(folder, ANSWER).write_bytes(pickle.dumps(answer))
