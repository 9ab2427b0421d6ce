"""The number of ops that an executor runs at the same time: by its configuration, or by the CPUs there are."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from pathlib import Path

import dagster as dg
from dagster._core.execution.retries import get_retries_config
from dagster._core.execution.tags import get_tag_concurrency_limits_config

# The quota of this process's control group (v2), in microseconds of CPU for so many microseconds.
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def available_cpus() -> int:
    """The number of CPUs that this process may use: those that it is bound to, up to its container's quota (Linux)."""
    cpus = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    # without a quota there is no file, or the word "max" in it
    with contextlib.suppress(OSError, ValueError):
        quota, period = map(int, CPU_QUOTA.read_text().split())
        return max(1, min(cpus, math.ceil(quota / period)))
    return cpus


def config_schema(max_concurrent: int | None) -> dict[str, dg.Field]:
    """The config schema of an executor: its fields in the run config."""
    return {
        "max_concurrent": dg.Field(
            dg.Noneable(int),
            default_value=max_concurrent,
            description="How many steps run at the same time; by default as many as there are CPUs.",
        ),
        "tag_concurrency_limits": get_tag_concurrency_limits_config(),
        "retries": get_retries_config(),
    }
