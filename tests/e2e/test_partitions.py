"""Partitioned flows: the key of a run's partition fills parameters, and tags what the run leaves behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from support import Project, failure_description, failures, job_of, load, values_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAILY = "--partition-by", "date=daily:2026-01-01"


@pytest.fixture(scope="module")
def flows(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project.of(tmp_path_factory.mktemp("partitions") / "project", "partitioned.py")


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture(scope="module")
def daily(flows: Project) -> Path:
    return flows.compile("partitioned.py", *DAILY, to="daily.py")


def run_job(definitions: Path, key: str, config: dict[str, Any] | None = None, **options: Any) -> Any:
    run_config = {"ops": {"start": {"config": config}}} if config is not None else None
    job = job_of(definitions)
    return job.execute_in_process(run_config=run_config, partition_key=key, raise_on_error=False, **options)


def materialize(definitions: Path, instance: dg.DagsterInstance, **options: Any) -> dg.ExecuteInProcessResult:
    assets = load(definitions).ASSETS
    return dg.materialize(assets, instance=instance, raise_on_error=False, **options)


def partitions(result: Any) -> dict[str, list[str | None]]:
    """For each step, the partitions that a run has materialized."""
    found: dict[str, list[str | None]] = {}
    for event in result.get_asset_materialization_events():
        found.setdefault(event.asset_key.path[-1], []).append(event.materialization.partition)
    return found


def test_job_and_assets_have_the_partitions(daily: Path) -> None:
    module = load(daily)
    expected = dg.DailyPartitionsDefinition(start_date="2026-01-01")
    assert module.PARTITIONS == module.JOB.partitions_def == expected
    assert {spec.partitions_def for spec in module.defs.resolve_all_asset_specs()} == {expected}
    assert module.ASSETS[0].backfill_policy is None


def test_key_of_a_jobs_run_fills_the_parameter(flows: Project, daily: Path, instance: dg.DagsterInstance) -> None:
    result = run_job(daily, "2026-01-05", instance=instance)
    assert result.success
    run = flows.run_of(result)
    assert values_of(run)["start"]["seen"] == ("2026-01-05", "none", "none", 0)
    assert values_of(run)["start"]["tags"] == ["partition:2026-01-05"]
    assert "partition:2026-01-05" in run.tags
    assert partitions(result) == {"start": ["2026-01-05"], "end": ["2026-01-05"]}
    of_end = result.get_asset_materialization_events()[-1].materialization.tags
    start = dg.AssetRecordsFilter(dg.AssetKey(["PartitionedFlow", "start"]), asset_partitions=["2026-01-05"])
    (record,) = instance.fetch_materializations(start, limit=1).records
    assert of_end["dagster/input_event_pointer/PartitionedFlow/start"] == str(record.storage_id)


def test_materialized_partition_of_two_dimensions(flows: Project, instance: dg.DagsterInstance) -> None:
    by = "--partition-by", "day=daily:2026-01-01", "--partition-by", "region=static:eu,us"
    definitions = flows.compile("partitioned.py", *by, "--partition-format", "%Y%m%d", to="two.py")
    config = {"ops": {"PartitionedFlow": {"ops": {"start": {"config": {"date": "x"}}}}}}
    result = materialize(definitions, instance, partition_key="2026-01-05|eu", run_config=config)
    assert result.success
    run = flows.metaflow_run("PartitionedFlow", f"dagster-{result.run_id}")
    assert values_of(run)["start"]["seen"] == ("x", "eu", "none", 20260105)
    assert {"partition:day=2026-01-05", "partition:region=eu"} <= run.tags
    assert partitions(result) == {"start": ["2026-01-05|eu"], "end": ["2026-01-05|eu"]}
    again = run_job(definitions, "2026-01-06|us", {"date": "x", "region": "us"}, instance=instance)
    (event,) = [e for e in again.get_asset_materialization_events() if e.asset_key.path[-1] == "end"]
    assert event.materialization.partition == "2026-01-06|us"
    assert event.materialization.tags["dagster/partition/region"] == "us"


def test_run_config_with_another_value_is_refused(daily: Path) -> None:
    (failure,) = failures(run_job(daily, "2026-01-05", {"date": "2026-01-06"}), "start")
    assert "the run config gives the parameter date the value '2026-01-06'" in failure_description(failure)
    assert "the run's partition 2026-01-05 gives it '2026-01-05'" in failure_description(failure)


def test_run_without_partition_needs_the_parameter(daily: Path) -> None:
    result = job_of(daily).execute_in_process(raise_on_error=False)
    (failure,) = failures(result, "start")
    assert "the run has no partition, whose key is the value of parameter date" in failure_description(failure)


def test_run_of_an_unknown_partition_fails(daily: Path) -> None:
    result = job_of(daily).execute_in_process(raise_on_error=False, tags={"dagster/partition": "2025-12-31"})
    (failure,) = failures(result, "start")
    assert "there is no partition '2025-12-31'. There are" in failure_description(failure)


def test_range_of_partitions_is_one_run(flows: Project, instance: dg.DagsterInstance) -> None:
    definitions = flows.compile("partitioned.py", *DAILY, "--partition-range", "date,last", to="range.py")
    assert load(definitions).ASSETS[0].backfill_policy == dg.BackfillPolicy.single_run()
    tags = {
        "dagster/asset_partition_range_start": "2026-01-05",
        "dagster/asset_partition_range_end": "2026-01-07",
    }
    days = ["2026-01-05", "2026-01-06", "2026-01-07"]
    result = materialize(definitions, instance, tags=tags)
    assert result.success
    run = flows.metaflow_run("PartitionedFlow", f"dagster-{result.run_id}")
    assert values_of(run)["start"]["seen"] == ("2026-01-05", "none", "2026-01-07", 0)
    assert values_of(run)["start"]["tags"] == ["partition:2026-01-05...2026-01-07"]
    assert partitions(result) == {"start": days, "end": days}
    of_job = job_of(definitions).execute_in_process(tags=tags, instance=instance)
    assert partitions(of_job) == {"start": days, "end": days}


def test_range_is_refused_where_a_run_takes_one_partition(daily: Path, instance: dg.DagsterInstance) -> None:
    tags = {"dagster/asset_partition_range_start": "2026-01-05", "dagster/asset_partition_range_end": "2026-01-07"}
    result = job_of(daily).execute_in_process(raise_on_error=False, tags=tags, instance=instance)
    (failure,) = failures(result, "start")
    assert "--partition-range START_PARAMETER,END_PARAMETER" in failure_description(failure)
