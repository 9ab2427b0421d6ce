"""The benchmarks run; what they measure is no test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.mark.parametrize(
    "command",
    [
        ["runs.py", "--rounds", "1", "--executors", "threads,materialize", "linear 5"],
        ["resume.py", "--rounds", "1", "--tasks", "3"],
        ["step_cost.py", "--rounds", "1"],
        ["step_profile.py", "--rounds", "1"],
        ["output.py", "--rounds", "1", "--megabytes", "10", "lines of 100 bytes"],
    ],
)
def test_benchmark_runs(command, tmp_path):
    command = [sys.executable, *command, "--json", str(tmp_path / "results.json")]
    finished = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, check=False, timeout=300)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout
    (result,) = json.loads((tmp_path / "results.json").read_text()).values()
    assert result["machine"]["cpus"] > 0
    assert result["figures"]
