"""Pools of Dagster, which limit how many tasks of a step run at the same time."""

from __future__ import annotations

import itertools
import re
import time
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from support import Project, job_of, persistent

from metaflow_pipes import DagsterCompiler
from metaflow_pipes.errors import CompileError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ITEMS = 3
PATIENCE_SECONDS = 120
EXECUTORS = pytest.mark.parametrize("executor", ["threads", "multiprocess"])


@pytest.fixture(scope="module")
def flows(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project.of(tmp_path_factory.mktemp("pools") / "flows", "pooled.py")
    for executor in ("threads", "multiprocess"):
        project.compile(
            "pooled.py", "--pool", "work=gpu", "--executor", executor, "--max-workers", "3", to=f"{executor}.py"
        )
    return project


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "dagster_home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    return home


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def spans(instance: dg.DagsterInstance, run_id: str) -> list[tuple[float, float]]:
    """From when to when each task of the mapped step ran, in the order of their beginnings."""
    begun, ended = {}, {}
    for kind, times in ((dg.DagsterEventType.STEP_START, begun), (dg.DagsterEventType.STEP_SUCCESS, ended)):
        for entry in instance.all_logs(run_id, of_type=kind):
            if entry.step_key is not None and entry.step_key.startswith("work["):
                times[entry.step_key] = entry.timestamp
    return sorted((begun[key], ended[key]) for key in begun)


@EXECUTORS
def test_pool_of_one_lets_one_task_run_at_a_time(flows: Project, instance: dg.DagsterInstance, executor: str) -> None:
    instance.event_log_storage.set_concurrency_slots("gpu", 1)
    with dg.execute_job(persistent(flows.folder / f"{executor}.py"), instance) as result:
        assert result.success
        tasks = spans(instance, result.run_id)
    assert len(tasks) == ITEMS
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(tasks)), tasks


@EXECUTORS
def test_pool_of_none_keeps_tasks_waiting_until_the_run_is_ended(
    flows: Project, instance: dg.DagsterInstance, home: Path, executor: str
) -> None:
    instance.event_log_storage.set_concurrency_slots("gpu", 0)
    file = f"{executor}.py"
    shown = flows.metaflow("pooled.py", "dagster", "trigger", "--definitions-file", file, DAGSTER_HOME=str(home)).stdout
    run_id = re.search(r"Dagster run: +(\S+)", shown)
    assert run_id is not None
    give_up_at = time.monotonic() + PATIENCE_SECONDS

    def is_blocked() -> bool:
        return any("gpu" in entry.message for entry in instance.all_logs(run_id[1]) if "blocked" in entry.message)

    while not is_blocked() and time.monotonic() < give_up_at:
        time.sleep(0.2)
    assert is_blocked()
    assert spans(instance, run_id[1]) == []
    flows.metaflow("pooled.py", "dagster", "terminate", run_id[1], DAGSTER_HOME=str(home))
    run = instance.get_run_by_id(run_id[1])
    assert run is not None
    assert run.status is dg.DagsterRunStatus.CANCELED
    assert spans(instance, run_id[1]) == []


def test_translator_gives_pools(project, monkeypatch: pytest.MonkeyPatch) -> None:
    flows: Project = project("pooled.py")
    flows.write(
        "pools.py",
        "from metaflow_pipes.runtime import DagsterMetaflowTranslator\n\n\n"
        "class Pools(DagsterMetaflowTranslator):\n"
        "    def get_pool(self, flow, step):\n"
        "        return super().get_pool(flow, step) or ('io' if step.name == 'end' else None)\n",
    )
    definitions = flows.compile("pooled.py", "--translator", "pools:Pools", "--pool", "work=gpu")
    monkeypatch.syspath_prepend(str(flows.folder))
    pools = {node.name: node.definition.pool for node in job_of(definitions).nodes}
    assert {step: pools[step] for step in ("start", "work", "end")} == {"start": None, "work": "gpu", "end": "io"}


def test_step_that_is_not_there_is_refused(flows: Project) -> None:
    shown = flows.refuses("pooled.py", "create", "refused.py", "--pool", "wrok=gpu")
    assert (
        "--pool names the step wrok, which flow PooledFlow does not have. Its steps are start, work, join, end."
        in shown
    )
    for option, problem in (("work", "not of the form NAME=VALUE"), ("work=", "the pool ''"), ("work=a b", "'a b'")):
        assert problem in flows.refuses("pooled.py", "create", "refused.py", "--pool", option)
    with pytest.raises(CompileError, match="step wrok"):
        DagsterCompiler(flows.folder / "pooled.py", pools={"wrok": "gpu"}).compile()
