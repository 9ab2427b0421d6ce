"""A real `dagster dev`, and its GraphQL API."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from support import Project, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

PATIENCE_SECONDS = 300  # many times what a run takes; the machine may be busy
STOP_SECONDS = 60
POLL_SECONDS = 0.2
# One code location for most flows, by its file: each has two processes, which import Dagster.
LOCATION = "location.py"
# The daemon takes queued runs at once, and not after up to 5 s.
DAGSTER_YAML = """
telemetry:
  enabled: false
run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
  config:
    dequeue_interval_seconds: 1
"""
UNTIL_STDIN_ENDS = Path(__file__).parent / "until_stdin_ends.py"

LAUNCH = """
    mutation Launch($params: ExecutionParams!) {
        launchRun(executionParams: $params) {
            ... on LaunchRunSuccess { run { runId } }
            ... on Error { message }
            ... on RunConfigValidationInvalid { errors { message } }
        }
    }
"""
RUN = """
    query Run($id: ID!) {
        runOrError(runId: $id) { ... on Run { status runConfigYaml stepStats { stepKey status } } }
    }
"""
LOCATIONS = """
    { workspaceOrError { ... on Workspace { locationEntries { loadStatus locationOrLoadError { __typename } } } } }
"""

T = TypeVar("T")


@dataclass(frozen=True)
class DagsterDev:
    """A running `dagster dev`.

    Attributes:
        url: Where it is.
        project: The flows, and their definitions files.
        home: The folder of its Dagster instance.
        alone: The flows whose definitions file is a code location of its own.
    """

    url: str
    project: Project
    home: Path
    alone: Sequence[str] = ()

    def graphql(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data of an answer."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def launch(self, flow: str, **parameters: Any) -> str:
        """The id of a new run; `_` in a parameter's name stands for `-`."""
        config = {name.replace("_", "-"): value for name, value in parameters.items()}
        selector = {
            "repositoryLocationName": definitions_of(flow) if flow in self.alone else LOCATION,
            "repositoryName": "__repository__",
            "jobName": flow,
        }
        params = {"selector": selector, "runConfigData": {"ops": {"start": {"config": config}}}}
        launched = self.graphql(LAUNCH, params=params)["launchRun"]
        assert "run" in launched, launched
        return launched["run"]["runId"]

    def run(self, run_id: str) -> dict[str, Any]:
        """A run's `status`, `runConfigYaml` and `stepStats`."""
        return self.graphql(RUN, id=run_id)["runOrError"]

    def runs(self) -> list[str]:
        """The ids of all runs, the latest first."""
        found = self.graphql("{ runsOrError { ... on Runs { results { runId } } } }")
        return [run["runId"] for run in found["runsOrError"]["results"]]

    def step_status(self, run_id: str, step: str) -> str:
        (status,) = [stats["status"] for stats in self.run(run_id)["stepStats"] if stats["stepKey"] == step]
        return status

    def wait_for(self, run_id: str, status: str) -> None:
        """Wait until a run is over, and fail if its status is another one."""
        over = ("SUCCESS", "FAILURE", "CANCELED")
        reached = wait_until(
            lambda: (status := self.run(run_id)["status"]) in over and status, f"run {run_id} to be {status}"
        )
        assert reached == status


def definitions_of(flow: str) -> str:
    """The name of a flow's definitions file."""
    return f"{flow.lower()}_dagster.py"


@contextlib.contextmanager
def dagster_dev(
    folder: Path,
    flows: Mapping[str, Path],
    *options: str,
    of_flows: Mapping[str, Sequence[str]] | None = None,
    more: Callable[[Project], list[str]] = lambda _: [],
    alone: Sequence[str] = (),
) -> Iterator[DagsterDev]:
    """Compile flows in a folder, and serve them until the end of the context.

    Args:
        folder: An empty folder.
        flows: The files of the flows, by the flows' names.
        options: Options of `create`.
        of_flows: More of them for single flows, by the flows' names.
        more: Makes other definitions files in the flows' folder, and returns their names.
        alone: The flows whose definitions file is a code location of its own, as commands without a webserver take it
            for one; all others are one together.
    """
    project = Project.of(folder / "flows")
    for flow, file in flows.items():
        shutil.copy(file, project.folder)
        project.compile(file.name, *options, *(of_flows or {}).get(flow, ()), to=definitions_of(flow))
    home = folder / "dagster_home"
    home.mkdir()
    (home / "dagster.yaml").write_text(DAGSTER_YAML)
    merged_flows = [flow for flow in flows if flow not in alone]
    modules = [file.removesuffix(".py") for file in (*map(definitions_of, merged_flows), *more(project))]
    merged = ", ".join(f"{module}.defs" for module in modules)
    imports = "".join(f"import {module}\n" for module in modules)
    project.write(LOCATION, f"import dagster as dg\n{imports}\ndefs = dg.Definitions.merge({merged})\n")
    with serving(project, home, LOCATION, *map(definitions_of, alone)) as dev:
        yield replace(dev, alone=alone)


@contextlib.contextmanager
def serving(project: Project, home: Path, *files: str, **env: str) -> Iterator[DagsterDev]:
    """Serve definitions files of a project until the end of the context.

    Args:
        project: The project, in whose folder they are.
        home: The `DAGSTER_HOME`.
        files: The definitions files.
        env: More variables of the servers.
    """
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        sys.executable,
        "-m",
        "dagster",
        "dev",
        *(f"-f{file}" for file in files),
        "--host",
        "127.0.0.1",
        "--port",
        url.rpartition(":")[2],
    ]
    log = home.parent / "dagster_dev.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(UNTIL_STDIN_ENDS), *command],
            cwd=project.folder,
            env={**os.environ, "DAGSTER_HOME": str(home), **env},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    assert process.stdin is not None
    try:
        dev = DagsterDev(url, project, home)
        try:
            wait_until(lambda: is_serving(dev, len(files)), "dagster dev to serve the flows")
        except AssertionError as error:
            raise AssertionError(log.read_text()[-5000:]) from error
        yield dev
    finally:
        process.stdin.close()
        process.wait(STOP_SECONDS)


def is_serving(dev: DagsterDev, count: int) -> bool:
    """Whether the web server answers, and has loaded all code locations."""
    try:
        entries = dev.graphql(LOCATIONS)["workspaceOrError"]["locationEntries"]
    except (urllib.error.URLError, ConnectionError):
        return False
    loaded = [entry for entry in entries if entry["loadStatus"] == "LOADED"]
    assert all(entry["locationOrLoadError"]["__typename"] == "RepositoryLocation" for entry in loaded), entries
    return len(loaded) == count


def wait_until(condition: Callable[[], T], what: str) -> T:
    """The first true value of a condition."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {PATIENCE_SECONDS} s for {what}"
        time.sleep(POLL_SECONDS)
    return value
