"""Flows without foreach and switch give the same on Dagster as by Metaflow's own `run`."""

from __future__ import annotations

import pytest
from support import Project, output_metadata, values_of


@pytest.mark.parametrize(
    ("flow", "ops"),
    [
        ("split.py", {"start", "left", "right", "one", "two", "inner", "join", "end"}),
        ("custom_names.py", {"config_", "type__", "type_", "output_", "finish"}),
        ("one_step.py", {"only"}),
    ],
)
def test_artifacts_are_those_of_metaflows_own_run(project, flow, ops):
    flows: Project = project(flow)
    result = flows.run(flow)
    assert result.success
    assert {node.name for node in result.job_def.nodes} == ops
    run = flows.run_of(result)
    assert run.successful
    assert run.finished
    assert values_of(run) == values_of(flows.native_run(flow))


def test_task_ids_are_the_steps_and_the_run_id_is_dagsters(project):
    flows: Project = project("split.py")
    result = flows.run("split.py")
    run = flows.run_of(result)
    assert run.id == f"dagster-{result.run_id}"
    assert {step.id: [task.id for task in step] for step in run} == {
        name: [name] for name in ("start", "left", "right", "one", "two", "inner", "join", "end")
    }


def test_join_takes_split_branches_by_name(project):
    # Metaflow's own runner takes them in any order: that of a set
    flows: Project = project("split.py")
    assert flows.run_of(flows.run("split.py"))["inner"].task["_order"].data == ["one", "two"]


def test_op_output_metadata_shows_the_task_and_its_artifacts(project):
    flows: Project = project("split.py")
    result = flows.run("split.py")
    metadata = output_metadata(result, "inner")
    pathspec = f"SplitFlow/dagster-{result.run_id}/inner/inner"
    assert metadata["pathspec"].value == pathspec
    assert metadata["task_path"].value == result.output_for_node("inner") == pathspec.partition("/")[2]
    assert metadata["attempt"].value == 0
    assert 0 < metadata["duration_seconds"].value < 60
    rows = {row.data["name"]: row.data for row in metadata["artifacts"].records}
    assert {name for name, row in rows.items() if row["origin"] != "inherited"} == {"numbers", "_order"}
    assert rows["numbers"]["type"] == "list"
    assert rows["numbers"]["size"] > 0
    assert f'Task("{pathspec}")["numbers"].data' in metadata["retrieve"].value


def test_task_metadata_names_the_dagster_run(project):
    flows: Project = project("one_step.py")
    result = flows.run("one_step.py")
    metadata = flows.run_of(result)["only"].task.metadata_dict
    assert metadata["dagster-run-id"] == result.run_id
    assert metadata["dagster-job-name"] == "OneStepFlow"
    assert metadata["dagster-step-key"] == "only"
