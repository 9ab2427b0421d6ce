"""The example of a flow among assets: what feeds it, and what takes the model that it makes."""

from __future__ import annotations

import shutil

import dagster as dg
from support import EXAMPLES, Project, load

DAY = "2026-01-05"


def test_assets_feed_a_partitioned_flow_and_take_its_model(project, monkeypatch):
    flows: Project = project()
    for file in ("forecast_flow.py", "shop.py"):
        shutil.copy(EXAMPLES / file, flows.folder)
    options = ("--partition-by", "day=daily:2026-01-01", "--depends-on", "raw/sales")
    flows.compile("forecast_flow.py", *options, to="forecastflow_dagster.py")
    monkeypatch.syspath_prepend(str(flows.folder))
    shop = load(flows.folder / "shop.py")
    job = shop.defs.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(partition_key=DAY)
    materialized = [event.materialization for event in result.get_asset_materialization_events()]
    assert {event.asset_key.path[-1] for event in materialized} == {"sales", "start", "fit", "end", "report"}
    assert {event.partition for event in materialized} == {DAY}
    (report,) = [event for event in materialized if event.asset_key == dg.AssetKey("report")]
    model = flows.metaflow_run("ForecastFlow", f"dagster-{result.run_id}")["fit"].task.data.model
    assert report.metadata["summary"].value == f"{DAY}: sales rise by {model['slope']:.2f} an hour"
    (check,) = result.get_asset_check_evaluations()
    assert check.passed
    assert check.check_name == "all_hours"
