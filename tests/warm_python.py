"""Python that has imported Metaflow, Dagster and the compiler: it is forked for each command.

A command of a flow file costs half a second in an interpreter of its own, or two with Dagster, nearly all of which are
imports. Run as a script, this module reads requests from stdin, and answers on stdout; `WarmPython` is its other end.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import subprocess
import sys
import tempfile
import threading
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Variables that are read by the interpreter or by Metaflow while it is imported: one of them needs a new interpreter.
READ_AT_START = ("METAFLOW_", "PYTHON")
# Of those, the ones that are read by each command, or that a fork sets as the import would.
READ_LATE = ("METAFLOW_HOME", "METAFLOW_TOKEN_HOME", "METAFLOW_USER", "METAFLOW_PIPES_")


class WarmPython:
    """Runs scripts as `python script.py ARGUMENTS` does, one at a time: another one needs an interpreter of its own."""

    def __init__(self) -> None:
        self._environment = dict(os.environ)
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def run(
        self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str] | None:
        """A finished command, whose stderr went into stdout; None if it needs an interpreter of its own.

        Bytes of its output that are no UTF-8 are escaped as in file names.
        """
        if _read_at_start(env) != _read_at_start(self._environment) or _has_configuration(env):
            return None
        if not self._lock.acquire(blocking=False):
            return None
        with contextlib.ExitStack() as stack:
            stack.callback(self._lock.release)
            output = stack.enter_context(tempfile.NamedTemporaryFile())
            server = self._server()
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdin.write(json.dumps([list(arguments), str(cwd), dict(env), output.name]) + "\n")
            server.stdin.flush()
            answer = server.stdout.readline()
            assert answer, "the forked interpreters' parent has died"
            text = output.read().decode(errors="surrogateescape")
            return subprocess.CompletedProcess(list(arguments), int(answer), text)

    def _server(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            atexit.register(self._process.communicate)
        return self._process


def _read_at_start(env: Mapping[str, str]) -> dict[str, str]:
    return {name: env[name] for name in env if name.startswith(READ_AT_START) and not name.startswith(READ_LATE)}


def _has_configuration(env: Mapping[str, str]) -> bool:
    home = env.get("METAFLOW_HOME")
    return home is not None and (Path(home) / "config.json").exists()


def serve() -> None:
    """Fork for each request. Returns in the children, each of which is to run its script; ends with stdin."""
    answers = os.dup(1)
    while request := sys.stdin.buffer.readline():
        arguments, cwd, env, output = json.loads(request)
        pid = os.fork()
        if pid == 0:
            os.close(answers)
            os.environ.clear()
            os.environ.update(env)
            os.chdir(cwd)
            for descriptor, path, flags in ((0, os.devnull, os.O_RDONLY), (1, output, os.O_WRONLY | os.O_APPEND)):
                opened = os.open(path, flags)
                os.dup2(opened, descriptor)
                os.close(opened)
            os.dup2(1, 2)
            metaflow_config.USER = env.get("METAFLOW_USER")
            sys.argv[:] = arguments
            sys.path[0] = str((Path(cwd) / arguments[0]).parent)
            return
        _, status = os.waitpid(pid, 0)
        os.write(answers, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    sys.exit()


if __name__ == "__main__":
    from metaflow import metaflow_config

    import metaflow_pipes
    from metaflow_pipes.compile import rendering

    for module in pkgutil.walk_packages(metaflow_pipes.__path__, "metaflow_pipes."):
        # these import Metaflow's commands, which take their options from the flow that is there by then
        if not module.name.startswith(("metaflow_pipes.api", "metaflow_pipes.cli")):
            importlib.import_module(module.name)
    assert "metaflow.cli" not in sys.modules
    rendering.template()
    (dagster,) = metadata.entry_points(group="console_scripts", name="dagster")
    dagster.load()
    # a collection in a child would go through all that was imported, and copy its pages
    gc.freeze()
    serve()
    runpy.run_path(sys.argv[0], run_name="__main__")
