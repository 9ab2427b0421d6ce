"""A flow whose step deploys and triggers another one, by Metaflow's Deployer API."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import metaflow
import pytest
from metaflow import DeployedFlow

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support import Project


@pytest.fixture
def flows(project: Callable[..., Project], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The two flows, on an instance of their own."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "dagster.yaml").touch()
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    return project("triggering.py", "triggered.py")


def test_step_of_a_native_run_deploys_and_triggers_another_flow(flows):
    run = flows.native_run("triggering.py", "--number", "4")
    assert run["start"].task["seen"].data == ("SUCCEEDED", (5, 7))


def test_step_on_dagster_deploys_and_triggers_another_flow(flows):
    run = flows.run_of(flows.run("triggering.py", {"number": 4}, "--executor", "in_process"))
    assert run["start"].task["seen"].data == ("SUCCEEDED", (5, 7))


def test_run_that_a_step_on_dagster_triggers_outlives_it(flows):
    wait = flows.write("wait", "")
    result = flows.run("triggering.py", {"waits": False}, "--executor", "in_process")
    assert result.success
    pathspec = flows.run_of(result).data.triggered
    metaflow.metadata(f"local@{flows.folder}")
    triggered = DeployedFlow.get_triggered_run("TriggeredFlow", pathspec, impl="dagster")
    triggered.wait_for_run(check_interval=0.2, timeout=60)
    # longer than the steps of the run that triggered it leave to what they have started
    time.sleep(3)
    assert triggered.status == "RUNNING"
    wait.unlink()
    triggered.wait_for_completion(check_interval=0.2, timeout=60)
    assert triggered.status == "SUCCEEDED"
