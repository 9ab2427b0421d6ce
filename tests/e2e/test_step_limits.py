"""Limits of the steps that run at the same time: of the machine, the job, a pool and tags."""

from __future__ import annotations

import time
from itertools import pairwise

import dagster as dg
import pytest
from plain_jobs import numbers, records_of, run, side_by_side
from support import persistent

from metaflow_pipes.runtime import threads
from metaflow_pipes.runtime.executors import limits


@dg.op(pool="narrow")
def pooled(number: int) -> int:
    INSIDE.append(number)
    inside = len(INSIDE)
    time.sleep(0.1)
    INSIDE.remove(number)
    return inside


INSIDE: list[int] = []


@dg.op
def widest(found: list[int]) -> int:
    return max(found)


@dg.job(executor_def=threads(4))
def in_a_pool():
    widest(numbers().map(pooled).collect())


LIMITS = [{"key": "kind", "value": "heavy", "limit": 1}]


@dg.op(tags={"kind": "heavy"})
def heavy(number: int) -> int:
    return pooled.compute_fn.decorated_fn(number)  # pyright: ignore


@dg.job(executor_def=threads(4).configured({"tag_concurrency_limits": LIMITS}, "limited"))
def with_tag_limits():
    widest(numbers().map(heavy).collect())


@dg.job(executor_def=threads(1))
def one_at_a_time():
    widest(numbers().map(pooled).collect())


def test_limit_is_kept(instance):
    with run(one_at_a_time, instance) as result:
        assert result.success
        assert result.output_for_node("widest") == 1


def test_limit_below_one_is_refused(instance):
    config = {"execution": {"config": {"max_concurrent": -1}}}
    with pytest.raises(dg.DagsterInvalidConfigError, match="at least one step"):
        run(side_by_side, instance, run_config=config, raise_on_error=True)


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [("max 100000", 3), ("150000 100000", 2), ("1000 100000", 1), ("900000 100000", 3), ("", 3), (None, 3)],
)
def test_default_limit_is_that_of_the_container(monkeypatch, tmp_path, quota, cpus):
    file = tmp_path / "cpu.max"
    if quota is not None:
        file.write_text(f"{quota}\n")
    monkeypatch.setattr(limits, "CPU_QUOTA", file)
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert limits.available_cpus() == cpus


def test_pools_limit_what_runs_side_by_side(instance):
    instance.event_log_storage.set_concurrency_slots("narrow", 1)
    with run(in_a_pool, instance) as result:
        assert result.success
        assert result.output_for_node("widest") == 1


def test_tags_limit_what_runs_side_by_side(instance):
    with run(with_tag_limits, instance) as result:
        assert result.success
        assert result.output_for_node("widest") == 1


PROCESSES = """
import time
import dagster as dg
from metaflow_pipes.runtime import multiprocess

@dg.op(tags={"kind": "heavy"})
def heavy():
    time.sleep(0.5)

@dg.job(executor_def=multiprocess(4))
def processes():
    for number in range(3):
        heavy.alias(f"heavy_{number}")()

defs = dg.Definitions(jobs=[processes])
"""


def test_tags_limit_what_runs_side_by_side_in_processes(instance, tmp_path):
    (tmp_path / "processes.py").write_text(PROCESSES)
    config = {"execution": {"config": {"tag_concurrency_limits": LIMITS, "max_concurrent": 3}}}
    job = persistent(tmp_path / "processes.py")
    assert dg.execute_job(job, instance, run_config=config).success
    records = records_of(instance, instance.get_runs()[0].run_id, "STEP_START", "heavy")
    assert len(records) == 3
    assert all(later.timestamp - earlier.timestamp >= 0.5 for earlier, later in pairwise(records))
