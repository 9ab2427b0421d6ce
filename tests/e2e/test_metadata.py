"""The artifacts of a task are shown on its op and on its asset, whatever they are, and small."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import pytest
from support import Project, failures, materialization, output_metadata


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    flows = Project.of(tmp_path_factory.mktemp("artifacts") / "project", "artifacts.py")
    result = flows.run("artifacts.py", None, "--tag", "nightly", "--tag", "model:linear")
    assert result.success
    return flows, result


def _rows(metadata) -> dict[str, dict]:
    return {record.data["name"]: dict(record.data) for record in metadata["artifacts"].value.records}


def test_table_says_what_is_new_changed_and_inherited(artifacts):
    rows = _rows(output_metadata(artifacts[1], "make"))
    assert rows["accuracy"] == {"name": "accuracy", "type": "float", "size": 21, "origin": "new"}
    assert rows["replaced"]["origin"] == "changed"
    assert rows["kept"]["origin"] == "inherited"
    assert (rows["_private"]["type"], rows["_private"]["origin"]) == ("dict", "new")
    assert rows["huge"]["type"] == "list"
    assert rows["huge"]["size"] > 200_000
    assert rows["strange"]["type"] == "__main__.Strange"
    # what is Metaflow's own is no artifact of the user
    assert not {"name", "_task_ok", "_transition", "_graph_info", "_foreach_stack"} & rows.keys()
    assert set(_rows(output_metadata(artifacts[1], "end"))) == set(rows)


def test_small_values_are_typed_and_others_are_only_listed(artifacts):
    metadata = output_metadata(artifacts[1], "make")
    assert metadata["accuracy"] == dg.MetadataValue.float(0.75)
    assert metadata["count"] == dg.MetadataValue.int(3)
    assert metadata["is_good"] == dg.MetadataValue.bool(True)
    assert metadata["label"] == dg.MetadataValue.text("short")
    assert metadata["replaced"] == dg.MetadataValue.text("after")
    assert metadata["settings"] == dg.MetadataValue.json({"depth": 3, "names": ["a", "b"]})
    assert metadata["pair"] == dg.MetadataValue.json([1, "two"])
    # JSON has no such numbers
    assert metadata["infinite"] == dg.MetadataValue.text("inf")
    assert metadata["giant"] == dg.MetadataValue.text(str(10**30))
    assert metadata["num_tokens"] == dg.MetadataValue.int(512)
    listed_only = {"essay", "huge", "strange", "reluctant", "unsuited", "surrogate", "_private", "kept"}
    listed_only |= {"api_token", "db_pwd"}
    assert not listed_only & metadata.keys()
    assert listed_only <= _rows(metadata).keys()
    assert "planted" not in str(metadata)


def test_artifact_called_like_an_entry_about_the_task(artifacts):
    metadata = output_metadata(artifacts[1], "make")
    assert metadata["attempt"] == dg.MetadataValue.int(0)
    assert metadata["attempt (artifact)"] == dg.MetadataValue.int(7)


def test_task_is_told_and_can_be_retrieved(artifacts):
    flows, result = artifacts
    metadata = output_metadata(result, "make")
    pathspec = f"ArtifactsFlow/dagster-{result.run_id}/make/make"
    assert metadata["pathspec"].value == pathspec
    assert metadata["tags"].value == "nightly, model:linear"
    assert 0 < metadata["duration_seconds"].value < 60
    lines = metadata["retrieve"].value.strip("`").splitlines()
    assert lines[0] == "python"
    *code, expression = lines[1:]
    flows.metaflow_run("ArtifactsFlow", f"dagster-{result.run_id}")
    names: dict = {}
    exec("\n".join(code), names)
    assert eval(expression, names) == 0.75
    assert "metaflow_ui" not in metadata


def test_asset_has_the_same_metadata_as_the_output(artifacts):
    event = materialization(artifacts[1], "make")
    # and says where the artifacts are, for assets that take them
    metadata = {name: value for name, value in event.metadata.items() if name != "metaflow/store"}
    assert metadata == output_metadata(artifacts[1], "make")


def test_link_to_the_metaflow_ui(project, monkeypatch):
    monkeypatch.setenv("METAFLOW_UI_URL", "https://metaflow.example/")
    flows: Project = project("one_step.py")
    result = flows.run("one_step.py")
    expected = f"https://metaflow.example/OneStepFlow/dagster-{result.run_id}/only/only"
    assert output_metadata(result, "only")["metaflow_ui"] == dg.MetadataValue.url(expected)


def test_dataframes_have_row_count_and_columns(project):
    flows: Project = project("frames.py")
    result = flows.run("frames.py")
    assert result.success
    one, two, wide = (output_metadata(result, step) for step in ("start", "two", "end"))
    assert one["dagster/row_count"] == dg.MetadataValue.int(3)
    columns = one["dagster/column_schema"].value.columns
    assert [column.name for column in columns] == ["id", "name"]
    assert columns[0].type == "int64"
    assert one["score"] == dg.MetadataValue.float(0.5)
    assert one["hits"] == dg.MetadataValue.int(4)
    assert one["is_close"] == dg.MetadataValue.bool(True)
    # Dagster's own keys have room for one table
    assert two["left/row_count"] == dg.MetadataValue.int(2)
    assert two["right/row_count"] == dg.MetadataValue.int(0)
    assert two["left/column_schema"].value.columns[0].type == "Float64"
    assert "dagster/row_count" not in two
    columns = wide["dagster/column_schema"].value.columns
    assert len(columns) == 201
    assert columns[-1].name == "and 100 more"


def test_many_artifacts_keep_the_event_small(project):
    flows: Project = project()
    flows.write(
        "flow.py",
        "from metaflow import FlowSpec, step\n\nclass ManyFlow(FlowSpec):\n    @step\n    def only(self):\n"
        "        for number in range(300):\n            setattr(self, f'value_{number:03}', number)\n\n"
        "if __name__ == '__main__':\n    ManyFlow()\n",
    )
    result = flows.run("flow.py")
    metadata = output_metadata(result, "only")
    records = metadata["artifacts"].value.records
    assert len(records) == 51
    assert records[-1].data["name"] == "and 250 more"
    assert sum(name.startswith("value_") for name in metadata) == 30
    event = next(e for e in result.all_events if e.event_type == dg.DagsterEventType.STEP_OUTPUT)
    assert len(dg.serialize_value(event)) < 20_000


@pytest.fixture(scope="module")
def cards(tmp_path_factory):
    flows = Project.of(tmp_path_factory.mktemp("cards") / "project", "cards.py")
    result = flows.run("cards.py")
    assert result.success
    return flows, result


def test_card_has_a_path_that_opens_and_its_simple_content(cards):
    metadata = output_metadata(cards[1], "start")
    assert "<html" in Path(metadata["card"].value).read_text().lower()
    content = metadata["card content"].value
    assert content.startswith("# Three | models\n\n| model | score |\n| --- | --- |\n| a \\| b | 1 |\n| c | 2.5 |")
    assert content.endswith("*and 1 more on the card*")
    assert materialization(cards[1], "start").metadata["card"] == metadata["card"]


def test_several_cards_of_a_step(cards):
    metadata = output_metadata(cards[1], "several")
    assert "left" in Path(metadata["card left"].value).name
    assert metadata["card left content"].value == "the left one"
    assert "*and 10 more rows*" in metadata["card right content"].value
    assert "/several/several" in Path(metadata["card taskspec_card"].value).read_text()
    assert "card taskspec_card content" not in metadata


def test_card_of_the_attempt_that_succeeded(cards):
    metadata = output_metadata(cards[1], "retried")
    assert metadata["card content"].value == "attempt 1"
    assert "card content" not in output_metadata(cards[1], "end")
    assert Path(output_metadata(cards[1], "end")["card"].value).is_file()


def test_card_on_a_remote_datastore_has_the_command_that_shows_it():
    from step_wrapper.report.cards import _place

    class Launch:
        command = ("flow.py",)
        run_id, step, task_id = "dagster-1", "train", "train"

    place = _place(Launch(), "s3", "s3://bucket/cards/default-abc.html", "abc")  # pyright: ignore[reportArgumentType]
    assert place == {"type": "md", "raw_value": "`python flow.py card view dagster-1/train/train --hash abc`"}


def test_metadata_that_cannot_be_made_leaves_the_outcome(project):
    flows: Project = project()
    # a step that breaks what the metadata is made with, after Metaflow has stored the task
    flows.write(
        "flow.py",
        "import atexit\nfrom metaflow import FlowSpec, step\n\nclass BreakingFlow(FlowSpec):\n"
        "    @step\n    def only(self):\n        self.x = 1\n        atexit.register(make_it_break)\n\n"
        "def broken(facts):\n    raise RuntimeError('broken')\n\n"
        "def make_it_break():\n    from step_wrapper.report import metadata\n    metadata.task_metadata = broken\n\n"
        "if __name__ == '__main__':\n    BreakingFlow()\n",
    )
    result = flows.run("flow.py")
    assert result.success, failures(result, "only")
    assert output_metadata(result, "only")["pathspec"].value == f"BreakingFlow/dagster-{result.run_id}/only/only"
    assert json.loads(json.dumps(flows.run_of(result).data.x)) == 1
