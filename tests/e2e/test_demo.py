"""The screen of `make demo`."""

from __future__ import annotations

import shutil
import subprocess
import sys

from support import EXAMPLES

SCREEN_LINES, SCREEN_COLUMNS = 40, 100


def test_demo_fits_a_screen_and_says_how_to_go_on(tmp_path):
    folder = tmp_path / "examples"
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns(".metaflow", "*_dagster.py", "__pycache__"))
    (tmp_path / ".venv").symlink_to(sys.prefix)  # where `make demo` has it
    finished = subprocess.run(
        [tmp_path / ".venv" / "bin" / "python", folder / "demo.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    shown = finished.stdout
    assert finished.returncode == 0, shown
    assert len(shown.splitlines()) <= SCREEN_LINES, shown
    assert max(map(len, shown.splitlines())) <= SCREEN_COLUMNS, shown
    assert "Telemetry" not in shown
    assert "dagster.yaml" not in shown
    assert "fit_quadratic  failed: ConnectionError" in shown
    assert "best model: quadratic" in shown
    (command,) = [line.split() for line in shown.splitlines() if " logs " in line]
    logs = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert "epoch 0: accuracy" in logs.stdout
