"""A flow whose step deploys and triggers another one, by Metaflow's Deployer API."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import Project

if TYPE_CHECKING:
    from collections.abc import Callable


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
