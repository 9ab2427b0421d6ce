"""Runs of partitions are started by backfills, schedules, events and commands, and gone on with."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from events import Ticks, publish, published
from scheduler import scheduler
from support import Project, execute, job_of, load, persistent, values_of

from metaflow_pipes.api.deployed_flow import DagsterDeployedFlow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scheduler import Scheduler

DAILY = "--partition-by", "date=daily:2026-01-01"
BY_DAY_AND_REGION = "--partition-by", "date=daily:2026-01-01", "--partition-by", "region=static:eu,us"
NOON = datetime(2026, 7, 3, 12, 0, tzinfo=timezone.utc)


def with_decorator(flows: Project, name: str, decorator: str) -> str:
    """A copy of the flow with a decorator of the flow."""
    source = (flows.folder / "partitioned.py").read_text()
    imported = decorator.partition("(")[0].lstrip("@")
    source = source.replace("current, step", f"current, {imported}, step").replace("class ", f"{decorator}\nclass ", 1)
    flows.write(name, source)
    return name


@pytest.fixture(scope="module")
def flows(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project.of(tmp_path_factory.mktemp("starting") / "project", "partitioned.py")


@pytest.fixture(scope="module")
def daily(flows: Project) -> Path:
    return flows.compile("partitioned.py", *DAILY, to="daily.py")


@pytest.fixture(scope="module")
def daemon(flows: Project, daily: Path) -> Iterator[Scheduler]:
    with scheduler(daily, flows.folder / "home") as daemon:
        yield daemon


def seen(flows: Project, run: dg.DagsterRun) -> tuple[Any, ...]:
    return values_of(flows.metaflow_run("PartitionedFlow", f"dagster-{run.run_id}"))["start"]["seen"]


def test_backfill_of_assets_runs_each_partition(flows: Project, daemon: Scheduler) -> None:
    days = ["2026-01-05", "2026-01-06"]
    keys = [dg.AssetKey(["PartitionedFlow", step]) for step in ("start", "end")]
    runs = daemon.backfill(keys, days)
    assert sorted(run.tags["dagster/partition"] for run in runs) == days
    assert sorted(seen(flows, run)[0] for run in runs) == days
    for key in keys:
        assert daemon.instance.get_materialized_partitions(key) == set(days)


def test_backfill_of_a_range_is_one_run(flows: Project, tmp_path: Path) -> None:
    definitions = flows.compile("partitioned.py", *DAILY, "--partition-range", "date,last", to="range.py")
    keys = [dg.AssetKey(["PartitionedFlow", step]) for step in ("start", "end")]
    days = ["2026-01-05", "2026-01-06", "2026-01-07"]
    with scheduler(definitions, tmp_path / "home") as daemon:
        (run,) = daemon.backfill(keys, days)
        assert daemon.instance.get_materialized_partitions(keys[1]) == set(days)
    assert seen(flows, run)[:3] == ("2026-01-05", "none", "2026-01-07")


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        (DAILY, ["2026-07-02"]),
        (("--partition-by", "date=daily:2026-08-01"), []),
        (("--partition-by", "date=static:a,b"), ["a", "b"]),
        (BY_DAY_AND_REGION, ["2026-07-02|eu", "2026-07-02|us"]),
    ],
)
def test_schedule_runs_the_latest_partition_that_is_over(
    flows: Project, options: tuple[str, ...], keys: list[str]
) -> None:
    flow = with_decorator(flows, "scheduled.py", "@schedule(cron='0 12 * * *')")
    definitions = load(flows.compile(flow, *options, to="scheduled_defs.py")).defs
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_schedule_context(
            instance=instance,
            scheduled_execution_time=NOON,
            repository_def=definitions.get_repository_def(),
        )
        tick = definitions.resolve_schedule_def("PartitionedFlow_schedule").evaluate_tick(context)
    assert [request.partition_key for request in tick.run_requests] == keys
    assert [request.tags["metaflow/scheduled_time"] for request in tick.run_requests] == [NOON.isoformat()] * len(keys)
    if not keys:
        assert tick.skip_message == f"Job PartitionedFlow has no partition that is over at {NOON.isoformat()}."


def test_value_for_scheduled_runs_is_refused_where_the_key_fills_the_parameter(flows: Project) -> None:
    flow = with_decorator(flows, "scheduled.py", "@schedule(cron='0 12 * * *')")
    shown = flows.refuses(flow, "create", *DAILY, "--schedule-param", "date=x")
    assert "--schedule-param gives a value to date, which the key" in " ".join(shown.split())


def test_event_starts_the_partition_that_it_names(flows: Project) -> None:
    flow = with_decorator(flows, "triggered.py", "@trigger(event='new')")
    with dg.DagsterInstance.ephemeral() as instance:
        ticks = Ticks.of(flows.compile(flow, *DAILY, to="triggered_defs.py"), "PartitionedFlow_trigger", instance)
        publish(instance, "new", {"date": "2026-01-05", "region": "eu"})
        publish(instance, "new", {"partition": "2026-01-06"})
        publish(instance, "new", {"date": "2020-01-05"})
        publish(instance, "new", {"region": "eu"})
        first, second = ticks.tick()
        assert (first.partition_key, second.partition_key) == ("2026-01-05", "2026-01-06")
        assert "date" not in first.run_config["ops"]["start"]["config"]
        assert any("there is no partition '2020-01-05'" in line for line in ticks.log)
        assert any("no field sets the parameter date, which is the key" in line for line in ticks.log)


def test_finished_partition_starts_the_same_one_of_another_flow(flows: Project, daily: Path) -> None:
    flow = with_decorator(flows, "following.py", "@trigger_on_finish(flow='PartitionedFlow')")
    definitions = flows.compile(flow, *DAILY, "--name", "Following", to="following_defs.py")
    with dg.DagsterInstance.ephemeral() as instance:
        ticks = Ticks.of(definitions, "Following_trigger_on_finish", instance)
        assert execute(job_of(daily), partition_key="2026-01-05", instance=instance).success
        (event,) = published(instance, "metaflow.PartitionedFlow.end")
        assert event["partition"] == "2026-01-05"
        (request,) = ticks.tick()
        assert request.partition_key == "2026-01-05"


def test_failed_partition_is_re_executed_from_failure(flows: Project, daily: Path) -> None:
    fail = flows.write("fail", "")
    with dg.instance_for_test() as instance:
        failed = execute(job_of(daily), partition_key="2026-01-05", instance=instance)
        fail.unlink()
        # Dagster's Python API hands no tags down
        options = dg.ReexecutionOptions.from_failure(failed.run_id, instance)
        with dg.execute_job(persistent(daily), instance, reexecution_options=options) as again:
            assert again.success
            assert instance.get_materialized_partitions(dg.AssetKey(["PartitionedFlow", "end"])) == {"2026-01-05"}
            run = instance.get_run_by_id(again.run_id)
    assert run is not None
    assert run.tags["dagster/partition"] == "2026-01-05"
    end = flows.metaflow_run("PartitionedFlow", f"dagster-{failed.run_id}")["end"].task
    assert "partition:2026-01-05" in end.tags


def test_triggered_partition_is_kept_by_the_run_that_resumes_it(
    flows: Project, daily: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").touch()
    fail = flows.write("fail", "")
    run = DagsterDeployedFlow.from_deployment(str(daily)).trigger(partition="2026-01-05")
    run.wait_for_completion(check_interval=0.2, timeout=300)
    assert run.status == "FAILED"
    fail.unlink()
    definitions = f"--definitions-file={daily}"
    flows.metaflow("partitioned.py", "dagster", "resume", definitions, "--run-id-file", "run_id", "--wait")
    resumed = flows.metaflow_run("PartitionedFlow", (flows.folder / "run_id").read_text())
    assert "partition:2026-01-05" in resumed.tags
    assert values_of(resumed)["start"]["seen"][0] == "2026-01-05"
    listed = flows.metaflow("partitioned.py", "dagster", "list-runs").stdout
    assert listed.count("2026-01-05\n") == 2

    refused = flows.metaflow("partitioned.py", "dagster", "trigger", definitions, "--partition=2020-01-05", check=False)
    assert "there is no partition '2020-01-05'. There are" in " ".join(refused.stdout.split())
    both = "--partition=2026-01-05", "--date=x"
    refused = flows.metaflow("partitioned.py", "dagster", "trigger", definitions, *both, check=False)
    assert "Parameter date is given, and so is the partition 2026-01-05" in " ".join(refused.stdout.split())
