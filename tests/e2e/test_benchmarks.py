"""The benchmarks run; what they measure is no test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.mark.parametrize(
    "command",
    [
        ["step_cost.py", "--rounds", "1"],
        ["foreach_growth.py", "--sizes", "2"],
        ["output.py", "--rounds", "1", "--megabytes", "10"],
    ],
)
def test_benchmark_runs(command):
    finished = subprocess.run(
        [sys.executable, *command], cwd=BENCHMARKS, capture_output=True, text=True, check=False, timeout=300
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout
