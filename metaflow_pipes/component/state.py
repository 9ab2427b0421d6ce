"""The state of an entry: its flows, compiled. A text that says for what it was compiled, and holds a source for each.

Compiling imports Metaflow and the flow, each in a process of its own; loading imports neither.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metaflow_pipes.errors import CompileError, DeploymentError
from metaflow_pipes.runtime.flow import NO_USERS, USER_VARIABLES, MetaflowFlowWarning

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from metaflow_pipes.compile.job_options import JobOptions

# Counts up when the state is written otherwise.
STATE_FORMAT = 1
# The Metaflow user of a project that is compiled where there is none.
USER = "dagster"
# How many flows of an entry are compiled at the same time.
MAX_COMPILERS = 4


@dataclass(frozen=True)
class FlowsRequest:
    """All that is asked of the compiler for the flows of an entry.

    Attributes:
        files: The absolute paths of the flow files.
        options: The options of their jobs.
        top_level: Metaflow's options before its command.
        decospecs: Decorators for every step, as in `run --with`.
        folder: Where the flows are compiled and their steps will run: the absolute path of the project, which can move
            to another place with all that is in it.
        beside: The absolute path of the folder from which the compiled text names all near it.
    """

    files: tuple[Path, ...]
    options: JobOptions
    top_level: tuple[str, ...]
    decospecs: tuple[str, ...]
    folder: Path
    beside: Path

    @property
    def digest(self) -> str:
        """The same on each machine for the same request, wherever the project is."""
        files = [os.path.relpath(file, self.beside) for file in self.files]
        return hashlib.sha256(repr((files, self.options, self.top_level, self.decospecs)).encode()).hexdigest()


@dataclass(frozen=True)
class CompiledFlow:
    """A flow, compiled.

    Attributes:
        name: The name of its job.
        text: The source of its definitions, as `create` writes it into a file.
    """

    name: str
    text: str


def find_flow_files(patterns: Iterable[str], folder: Path) -> tuple[Path, ...]:
    """The flow files that paths and globs name, in the order of these, each once.

    Args:
        patterns: The paths and globs; relative ones start at the folder.
        folder: An absolute path.

    Raises:
        CompileError: One of them names no file.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(os.path.abspath(folder / pattern))
        files = [path] if path.is_file() else sorted(_glob(path))
        if not files:
            what = "No flow file matches" if any(letter in pattern for letter in "*?[") else "There is no flow file"
            raise CompileError(f"{what} {path}. Name one, relative to {folder} or absolutely.")
        found.update(dict.fromkeys(files))
    return tuple(found)


def _glob(pattern: Path) -> list[Path]:
    root = Path(pattern.anchor)
    return [path for path in root.glob(str(pattern.relative_to(root))) if path.is_file()]


def compile_state(request: FlowsRequest, entry: str) -> str:
    """Compile the flows of an entry.

    Args:
        request: What is asked for.
        entry: The entry's name, for warnings.

    Returns:
        The state.

    Raises:
        CompileError: A flow can't be read, or can't run on Dagster; has the message of each.
    """
    with ThreadPoolExecutor(MAX_COMPILERS) as pool:
        outcomes = list(pool.map(lambda file: _compiled(request, file), request.files))
    errors = [outcome for outcome in outcomes if isinstance(outcome, CompileError)]
    if errors:
        raise errors[0] if len(errors) == 1 else CompileError("\n\n".join(map(str, errors)))
    flows = [outcome for outcome in outcomes if not isinstance(outcome, CompileError)]
    names = [flow.name for flow, _ in flows]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CompileError(
            f"Several flows of {entry} have the job name {', '.join(twice)}. Give each an entry of its own, with a "
            "name."
        )
    for flow, messages in flows:
        for message in messages:
            warnings.warn(f"{entry}, flow {flow.name}: {message}", MetaflowFlowWarning, stacklevel=2)
    return state_of([flow for flow, _ in flows], request.digest)


def state_of(flows: Iterable[CompiledFlow], digest: str) -> str:
    """The state that holds flows; the inverse of `read_state`."""
    lines = {flow.name: flow.text.splitlines(keepends=True) for flow in flows}
    return json.dumps({"format": STATE_FORMAT, "compiled_for": digest, "flows": lines}, indent=1)


def _compiled(request: FlowsRequest, file: Path) -> tuple[CompiledFlow, Sequence[str]] | CompileError:
    """A flow and the warnings about it, or why it can't be compiled."""
    from metaflow_pipes.compile.rendering import render
    from metaflow_pipes.compile.stages import CompileRequest, compile_file

    asked = CompileRequest(request.options, request.decospecs, with_first_token=True)
    try:
        job = compile_file(sys.executable, file, ["--quiet", *request.top_level], asked, request.folder, _user())
    except CompileError as error:
        return error
    text = render(job, request.beside / f"{job.name.lower()}_dagster.py", moves=request.folder)
    return CompiledFlow(job.name, text), job.warnings


def _user() -> dict[str, str]:
    """A user for Metaflow where the environment names none, as in a container, whose user is root."""
    is_named = any(os.environ.get(variable, "") not in NO_USERS for variable in USER_VARIABLES)
    return {} if is_named else {"METAFLOW_USER": USER}


def read_state(state: str) -> tuple[list[CompiledFlow], str]:
    """The flows of a state, and the digest of the request that it was compiled for.

    Raises:
        DeploymentError: Another version has written it.
    """
    try:
        values = json.loads(state)
        if values["format"] == STATE_FORMAT:
            flows = [CompiledFlow(name, "".join(lines)) for name, lines in values["flows"].items()]
            return flows, values["compiled_for"]
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise DeploymentError("The stored state is of another version of metaflow-pipes.")
