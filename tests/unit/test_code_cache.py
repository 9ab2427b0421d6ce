"""The cache of code packages: what nobody uses is deleted."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from step_wrapper.fetching import KEPT_DAYS, prune

if TYPE_CHECKING:
    from pathlib import Path

DAY_SECONDS = 24 * 60 * 60


def _package(cache: Path, name: str, days: float) -> Path:
    """A package that a step was started from so many days ago."""
    folder = cache / name
    folder.mkdir()
    (folder / "flow.py").touch()
    (cache / f"{name}.lock").touch()
    used_at = time.time() - days * DAY_SECONDS
    os.utime(folder, (used_at, used_at))
    return folder


def test_packages_that_are_not_used_are_deleted_but_not_one_that_is_in_use(tmp_path):
    _package(tmp_path, "old", KEPT_DAYS + 1)
    _package(tmp_path, "recent", KEPT_DAYS - 1)
    worked_in = _package(tmp_path, "worked-in", KEPT_DAYS + 1)
    _package(tmp_path, "being-fetched", KEPT_DAYS + 1)
    (tmp_path / "of-others").mkdir()
    command = [sys.executable, "-c", "input()"]
    with (
        contextlib.closing((tmp_path / "being-fetched.lock").open("wb")) as lock,
        subprocess.Popen(command, cwd=worked_in, stdin=subprocess.PIPE) as process,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        prune(tmp_path)
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.close()
    kept = ("recent", "worked-in", "being-fetched")
    assert {path.name for path in tmp_path.iterdir()} == {"of-others", *kept, *(f"{name}.lock" for name in kept)}
    prune(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"of-others", "recent", "recent.lock"}
