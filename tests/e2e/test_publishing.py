"""Publishing: from a step, from Python, from the shell, all the same event."""

from __future__ import annotations

import dagster as dg
import pytest
from events import Ticks, published
from support import execute, persistent

from metaflow_pipes import DagsterEvent, DeploymentError


@pytest.fixture
def instance(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "dagster.yaml").write_text("telemetry: {enabled: false}")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    with dg.DagsterInstance.get() as instance:
        yield instance


def test_steps_publish_also_by_code_for_argo_and_by_processes_and_at_once(project, instance):
    made = project("publishing.py")

    result = execute(made.job("publishing.py"), {"count": 500}, instance=instance)

    start = made.run_of(result)["start"].task.data
    in_step, for_argo, by_process = published(instance, "data_ready")
    assert {k: in_step[k] for k in ("name", "rows", "shape", "id")} == {
        "name": "data_ready",
        "rows": 3,
        "shape": {"x": [1, None]},
        "id": start.in_step,
    }
    assert (for_argo["rows"], for_argo["id"]) == ("4", start.for_argo)
    assert (by_process["rows"], by_process["id"]) == (5, start.by_process)
    assert start.too_large is None
    assert [event["number"] for event in published(instance, "many")] == list(range(500))
    # the step that has published it was killed then
    assert not result.success
    assert len(published(instance, "before_the_end")) == 1
    # a run that fails has not finished
    assert published(instance, "metaflow.PublishingFlow.end") == []


def test_any_process_publishes_to_the_instance_of_its_home(instance, capsys):
    event = DagsterEvent(lambda: "data/ready", payload={"rows": 1})

    assert event.safe_publish() is None
    assert "this is no step" in capsys.readouterr().err
    id_ = event.add_to_payload("rows", 2).publish({"day": None})

    (found,) = published(instance, "data/ready")
    assert (found["rows"], found["day"], found["id"]) == (2, None, id_)
    DagsterEvent("asset:raw/events").publish({"rows": 4}, ignore_errors=False)
    (record,) = instance.fetch_materializations(dg.AssetKey(["raw", "events"]), limit=2).records
    assert record.asset_materialization.metadata["rows"].value == 4
    assert event.publish({"bad": object()}) is None
    with pytest.raises(DeploymentError, match=r"Event data/ready was not published: .*object is not JSON"):
        event.publish({"bad": object()}, ignore_errors=False)
    with pytest.raises(DeploymentError, match="is no name of an event"):
        DagsterEvent("")
    with pytest.raises(DeploymentError, match="is no name of an event"):
        DagsterEvent("asset:raw/")


def test_shell_publishes(project, instance):
    made = project("one_step.py")

    said = made.metaflow(
        "one_step.py", "dagster", "publish", "data_ready", "--payload-json", '{"a": [1], "rows": 1}',
        "--payload", "rows=3", "--payload", "day=2026-01-01",
    ).stdout  # fmt: skip

    (found,) = published(instance, "data_ready")
    assert (found["a"], found["rows"], found["day"]) == ([1], 3, "2026-01-01")
    assert found["id"] in said
    assert "FIELD=VALUE" in made.refuses("one_step.py", "publish", "x", "--payload", "rows")
    assert "no JSON object" in made.refuses("one_step.py", "publish", "x", "--payload-json", "3")
    assert "can't be reached" in made.refuses("one_step.py", "publish", "x", "--url", "http://127.0.0.1:9")


def test_a_run_that_is_gone_on_with_keeps_its_trigger(project, instance):
    made = project("waiting.py")
    ticks = Ticks.of(made.compile("waiting.py"), "WaitingFlow_trigger", instance)
    DagsterEvent("data_ready").publish({"id": "mine", "country": "fr"}, ignore_errors=False)
    (request,) = ticks.tick()
    run = made.run_of(ticks.run(request))
    job = persistent(made.folder / "defs.py")

    # Dagster's Python API hands down no tags
    options = dg.ReexecutionOptions(parent_run_id=run.id.removeprefix("dagster-"))
    with dg.execute_job(job, instance=instance, reexecution_options=options, run_config=request.run_config) as again:
        assert made.metaflow_run("WaitingFlow", f"dagster-{again.run_id}").trigger.event.id == "mine"
    said = made.metaflow("waiting.py", "dagster", "resume", f"--origin-run-id={run.id}", "join", "--wait").stdout

    assert "succeeded" in said
    resumed = next(iter(made.metaflow_run("WaitingFlow", run.id).parent))
    assert resumed.id != run.id
    assert resumed.trigger.event.id == "mine"
    assert resumed["start"].task.metadata_dict["origin-run-id"] == run.id
