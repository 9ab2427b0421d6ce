"""The commands of `dg` on the example project: scaffold, check and launch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from dg_projects import FLOW
from support import EXAMPLES

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example project, where its package need not be installed."""
    folder = tmp_path_factory.mktemp("example") / "dg_project"
    leave_out = shutil.ignore_patterns(".metaflow", ".local_defs_state", "data", "__pycache__")
    shutil.copytree(EXAMPLES / "dg_project", folder, ignore=leave_out)
    (folder / ".metaflow").mkdir()
    return folder


def _dg(project: Path, *arguments: str) -> str:
    """The output of `dg`, as in an environment that is not activated."""
    environment = {**os.environ, "PYTHONPATH": "src"}
    finished = subprocess.run(
        [sys.executable, "-m", "dagster_dg_cli.cli", *arguments],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout
    return finished.stdout


def test_dg_scaffolds_checks_and_launches(example):
    (example / "flows" / "empty_flow.py").write_text(FLOW.format(name="EmptyFlow"))
    arguments = ("empty", "--flow-file", "flows/empty_flow.py")
    _dg(example, "scaffold", "defs", "metaflow_pipes.MetaflowFlowComponent", *arguments)
    written = (example / "src" / "dg_project" / "defs" / "empty" / "defs.yaml").read_text()
    assert "{{ context.project_root }}/flows/empty_flow.py" in written
    # checks the YAML, too, and leaves the compiled flows
    assert "All definitions loaded successfully." in _dg(example, "check", "defs")
    imported = subprocess.run(
        [sys.executable, "-c", _IMPORTS], cwd=example, env={**os.environ, "PYTHONPATH": "src"}, capture_output=True
    )
    assert imported.stdout.decode().split() == ["SegmentFlow", "EmptyFlow", "False"], imported.stderr.decode()
    launched = _dg(example, "launch", "--assets", "group:shop or group:SegmentFlow or group:LetterFlow")
    assert "RUN_SUCCESS" in launched


_IMPORTS = """
import sys
from dg_project.definitions import defs
jobs = {job.name for job in defs().resolve_all_job_defs()}
print(*[name for name in ("SegmentFlow", "EmptyFlow") if name in jobs], "metaflow" in sys.modules)
"""
