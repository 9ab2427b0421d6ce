"""A Dagster that can't be asked, or can't do what it is asked: one clear message, and what to do."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from metaflow_pipes.errors import DeploymentError
from metaflow_pipes.names import FLOW_TAG, WORKER_TAG
from metaflow_pipes.runs import local
from metaflow_pipes.runs.host_processes import RunWorker
from metaflow_pipes.runs.local import LocalInstance
from metaflow_pipes.runs.webserver import Webserver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support import Project


def home_of(folder: Path, settings: str = "") -> Path:
    home = folder / "dagster_home"
    home.mkdir()
    (home / "dagster.yaml").write_text(settings)
    return home


def started_run(home: Path, worker: RunWorker | None = None) -> str:
    """A run that goes on, as the instance says: of a run launcher, or of these processes."""
    run_id = str(uuid.uuid4())
    tags = {FLOW_TAG: "FlakyFlow", **({WORKER_TAG: worker.tag(run_id)} if worker else {})}
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.add_run(dg.DagsterRun("FlakyFlow", run_id, status=dg.DagsterRunStatus.STARTED, tags=tags))
    return run_id


@pytest.mark.parametrize("command", ["trigger", "list-runs"])
def test_full_disk(project, tmp_path, command):
    flows: Project = project("flaky.py")
    flows.compile("flaky.py")
    home = home_of(tmp_path)
    if command == "trigger":
        started_run(home)  # makes the databases
    finished = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -f 0 && exec "$@"', "sh", sys.executable, "flaky.py", "dagster", command],
        cwd=flows.folder,
        env={**os.environ, "DAGSTER_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert finished.returncode == 1
    assert "Traceback" not in finished.stdout
    assert f"The Dagster instance in {home} can't be used" in finished.stdout
    assert "whether its disk is full" in finished.stdout


def test_run_launcher_that_can_not_be_imported(project, tmp_path):
    flows: Project = project("flaky.py")
    home = home_of(tmp_path, "run_launcher:\n  module: nope.launchers\n  class: NopeLauncher\n")
    run_id = started_run(home)
    finished = flows.metaflow("flaky.py", "dagster", "terminate", run_id, check=False, DAGSTER_HOME=str(home))
    assert finished.returncode == 1
    assert "Traceback" not in finished.stdout
    for words in (f"dagster-{run_id} can't be terminated", "nope.launchers", str(home / "dagster.yaml")):
        assert words in finished.stdout


def test_processes_of_another_user(tmp_path, monkeypatch):
    def refuse(pid: int, number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    home = home_of(tmp_path)
    process = subprocess.Popen(["sleep", "60"])
    try:
        run_id = started_run(home, RunWorker.of(process.pid))
        instance = LocalInstance(str(home))
        run = instance.run(run_id)
        assert run is not None
        monkeypatch.setattr(local, "TERMINATION_SECONDS", 0.1)
        with monkeypatch.context() as patched:
            patched.setattr(os, "kill", refuse)
            with pytest.raises(DeploymentError, match=f"may not kill its processes, {process.pid}: let their user"):
                instance.terminate(run)
        assert process.poll() is None
        # what watches over the run was asked by this
        with dg.DagsterInstance.from_config(str(home)) as asked:
            again = asked.get_run_by_id(run_id)
        assert again is not None
        assert again.status == dg.DagsterRunStatus.CANCELING
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def answering() -> Iterator[HTTPServer]:
    """An HTTP server that is no Dagster; `answer` is what it says."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.server.answer)  # pyright: ignore[reportAttributeAccessIssue]

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("answer", [b"{}", b"[]", b'{"data": null}', b'{"data": {}}', b'{"errors": ["no"]}', b"hello"])
def test_webserver_that_is_no_dagster(answering, answer):
    answering.answer = answer
    url = f"http://127.0.0.1:{answering.server_port}"
    with pytest.raises(DeploymentError, match=rf"What answers at {url}/graphql is no Dagster webserver.*--url"):
        Webserver(url).run("x")
