"""Runs by their ids, how far they are said to be, and the run config that parameters make."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from metaflow.includefile import IncludedFile
from rich.console import Console

from metaflow_pipes.compile.flow_model import ParameterModel
from metaflow_pipes.deployment.definitions_file import Deployment
from metaflow_pipes.errors import DeploymentError
from metaflow_pipes.file_format import CompilerVersion
from metaflow_pipes.runs.included_files import with_stored_files
from metaflow_pipes.runs.origin import Origin
from metaflow_pipes.runs.progress import Progress, duration
from metaflow_pipes.runs.run_config import from_text, run_config, split_run_params
from metaflow_pipes.runs.service import RunRecord, RunStatus, StepEvent, find_run, left_out, reason_of


class Service:
    """A Dagster with these runs, the latest first."""

    def __init__(self, *runs: tuple[str, str]):
        self._runs = [
            RunRecord(
                dagster_run_id,
                "F",
                RunStatus.RUNNING,
                {"metaflow/flow": "F", "metaflow/run_id": run_id} if run_id else {},
                is_selection=run_id not in ("", f"dagster-{dagster_run_id}"),
            )
            for dagster_run_id, run_id in runs
        ]

    def run(self, dagster_run_id: str) -> RunRecord | None:
        return next((run for run in self._runs if run.dagster_run_id == dagster_run_id), None)

    def runs(self, tags: dict[str, str], statuses: Any = (), limit: int = 20) -> list[RunRecord]:
        return [run for run in self._runs if tags.items() <= {"metaflow/flow": "F", **run.tags}.items()][:limit]


SERVICE: Any = Service(("a9", "dagster-a1"), ("a1", "dagster-a1"), ("b2", "dagster-b2"), ("b3", ""))


@pytest.mark.parametrize(
    ("identifier", "found"),
    [
        ("dagster-a1", "a9"),  # of a Metaflow run, the Dagster run that went on with it last
        ("a1", "a1"),
        ("a9", "a9"),
        ("a", "a9"),
        ("dagster-a", "a9"),
        ("b2", "b2"),
        ("dagster-b2", "b2"),
        ("F/dagster-b2", "b2"),
        ("dagster-b3", "b3"),  # not started yet, so that no tag says so
        ("b3", "b3"),
    ],
)
def test_run_is_found(identifier, found):
    assert find_run(SERVICE, "F", identifier).dagster_run_id == found


@pytest.mark.parametrize(
    ("identifier", "words"),
    [
        ("b", ["dagster-b2", "dagster-b3", "2 runs"]),
        ("dagster-", ["3 runs"]),
        ("c", ["no run c"]),
        ("", ["missing"]),
        ("G/dagster-b2", ["flow G", "flow F"]),
    ],
)
def test_run_that_is_not_clear_is_refused(identifier, words):
    with pytest.raises(DeploymentError) as error:
        find_run(SERVICE, "F", identifier)
    assert all(word in str(error.value) for word in words), error.value


def progress_of(*events: tuple[str, str] | tuple[str, str, dict[str, Any]], **steps: str | None) -> list[str]:
    """The lines that are printed of events a second apart."""
    output = io.StringIO()
    progress = Progress(steps, Console(file=output, width=200))
    progress.take(
        StepEvent(kind, key, float(number), **(rest[0] if rest else {}))
        for number, (kind, key, *rest) in enumerate(events)
    )
    return output.getvalue().splitlines()


def test_progress_counts_the_items_of_a_foreach():
    lines = progress_of(
        ("STEP_START", "start"),
        ("STEP_OUTPUT", "start", {"num_splits": 2}),
        ("STEP_SUCCESS", "start"),
        ("STEP_START", "work[0]"),
        ("STEP_START", "gather_work"),
        ("STEP_SUCCESS", "work[0]"),
        ("STEP_START", "work[1]"),
        ("STEP_FAILURE", "work[1]"),
        ("STEP_RESTARTED", "work[1]"),
        ("STEP_SUCCESS", "work[1]"),
        start=None,
        work="start",
    )
    assert lines == [
        "start: running",
        "start: done (2.0 s)",
        "work: running (2 items)",
        "work[1]: failed",
        "work: done (2 items, 6.0 s)",
    ]


def test_progress_tells_clones_retries_and_skips():
    lines = progress_of(
        ("STEP_START", "start"),
        ("STEP_OUTPUT", "start", {"is_cloned": True}),
        ("STEP_SUCCESS", "start"),
        ("STEP_START", "left"),
        ("STEP_UP_FOR_RETRY", "left"),
        ("STEP_RESTARTED", "left"),
        ("STEP_SUCCESS", "left"),
        ("STEP_SKIPPED", "right"),
        start=None,
        left=None,
        right=None,
    )
    assert lines == [
        "start: running",
        "start: done (cloned, 2.0 s)",
        "left: running",
        "left: failed, and is tried again",
        "left: done (3.0 s)",
        "right: skipped",
    ]


def test_failure_of_the_run_is_told_if_no_step_has_failed():
    progress = Progress({"start": None})
    progress.take([StepEvent("ENGINE_EVENT", "", 1.0, message="no module"), StepEvent("RUN_FAILURE", "", 2.0)])
    assert progress.failures == [("run", "no module")]


@pytest.mark.parametrize("status", [RunStatus.SUCCEEDED, RunStatus.FAILED])
@pytest.mark.parametrize("others", [[], [("start", "boom")]])
def test_run_without_its_last_step_says_so_once_whatever_else_failed_and_whoever_saw_it_first(status, others):
    progress = Progress({"start": None, "end": None})
    progress.take(StepEvent("STEP_FAILURE", step, 1.0, message=reason) for step, reason in others)
    progress.take([StepEvent("RUN_FAILURE", "", 3.0, message=left_out("end"))])
    run = RunRecord("a1", "F", status)
    assert progress.outcome_of(run).status is RunStatus.FAILED
    assert progress.failures == [*others, ("run", left_out("end"))]


def test_table_shows_the_state_of_each_step_once_the_run_has_ended():
    progress = Progress({"start": None, "work": "start", "end": None})
    kinds = [("STEP_OUTPUT", "start"), ("STEP_SUCCESS", "start"), ("STEP_START", "work[0]"), ("STEP_START", "work[1]")]
    progress.take(StepEvent(kind, key, 1.0, num_splits=2) for kind, key in kinds)
    progress.take([StepEvent("STEP_SUCCESS", "work[0]", 2.0)])
    progress.finish()
    output = io.StringIO()
    Console(file=output, width=100).print(progress)
    done, failed = output.getvalue().splitlines()
    assert done.startswith("✓ start")
    assert failed.startswith("✗ work")
    assert "1/2" in failed


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (75, "75 s"), (300, "5 min"), (9000, "150 min")]
)
def test_durations_are_short(seconds, text):
    assert duration(seconds) == text


def test_end_with_the_run_is_told_in_words():
    assert reason_of("dagster._core.errors.DagsterExecutionInterruptedError\n") == "was ended with the run"
    assert reason_of("boom\n") == "boom"


DEPLOYMENT = Deployment(
    **{
        **dict.fromkeys(Deployment.__dataclass_fields__),
        "name": "F",
        "flow_name": "F",
        "definitions_file": Path("defs.py"),
        "op_names": {"start": "start"},
        "start_step": "start",
        "parameters": (
            ParameterModel("alpha-beta", "float", has_default=True, default=1.0),
            ParameterModel("count", "int", multiple=True, has_default=True, default=[1]),
            ParameterModel("flag", "bool", has_default=True, default=False),
            ParameterModel("data", "json", has_default=True, default=None),
            ParameterModel("listed", "str", separator=",", has_default=True, default="a"),
            ParameterModel("file", "file", has_default=True, default="x"),
            ParameterModel("bare", "str"),
        ),
    }
)


def config_of(**values: Any) -> dict[str, Any]:
    return run_config(DEPLOYMENT, values)["ops"]["start"]["config"]


@pytest.mark.parametrize(
    ("texts", "value"),
    [
        ({"alpha-beta": "1e-3"}, 0.001),
        ({"alpha_beta": "2"}, 2.0),
        ({"count": ("1", "2")}, [1, 2]),
        ({"count": "3"}, [3]),
        ({"flag": "Yes"}, True),
        ({"flag": "0"}, False),
        ({"data": '{"a": [1, null]}'}, {"a": [1, None]}),
        ({"data": "null"}, None),
        ({"listed": "x,y"}, "x,y"),
        ({"bare": " 1 "}, " 1 "),
    ],
)
def test_text_becomes_a_value_of_the_parameters_type(texts, value):
    ((_, found),) = from_text(DEPLOYMENT, texts).items()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "texts", [{"alpha-beta": "x"}, {"count": "1.5"}, {"flag": "maybe"}, {"data": "{"}, {"nope": "1"}]
)
def test_text_that_is_no_value_is_refused_by_name(texts):
    with pytest.raises(DeploymentError, match=next(iter(texts))):
        from_text(DEPLOYMENT, texts)


def test_what_is_not_given_has_its_default_or_no_value():
    assert config_of() == {"bare": None}
    assert config_of(alpha_beta=None, flag=True) == {"flag": True, "bare": None}
    assert config_of(listed=["a", "b"])["listed"] == ["a", "b"]


def test_paths_are_those_of_the_callers_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert config_of(file="data.txt")["file"] == str(tmp_path / "data.txt")
    assert config_of(file='{"type": "uploader-v2"}')["file"] == '{"type": "uploader-v2"}'


PACKAGED = replace(
    DEPLOYMENT,
    is_packaged=True,
    datastore="local",
    settings={},
    compiled_by=CompilerVersion("0.2.0", 3),
    parameters=(ParameterModel("raw", "file", is_text=False), ParameterModel("text", "file", encoding="latin-1")),
)


def test_content_of_a_file_is_stored_where_the_code_is(tmp_path):
    deployment = replace(PACKAGED, datastore_root=str(tmp_path / "store"))
    files = {name: tmp_path / f"{name}.txt" for name in ("raw", "text")}
    for file in files.values():
        file.write_bytes("über".encode("latin-1"))
    said: list[str] = []
    values = with_stored_files(deployment, {name: str(file) for name, file in files.items()}, said.append)
    for file in files.values():
        file.unlink()
    assert {n: IncludedFile(json.loads(value)).decode(n) for n, value in values.items()} == {
        "raw": "über".encode("latin-1"),
        "text": "über",
    }
    assert str(files["raw"]) in said[0]
    assert {path.parts[-3:-1] for path in tmp_path.rglob("store/*/*/*")} == {("data", "F")}
    # what is stored, and other values, stay
    assert with_stored_files(deployment, values, print) == values


def test_file_that_can_not_be_stored_is_refused_with_the_reason(tmp_path):
    deployment = replace(PACKAGED, datastore_root=str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    with pytest.raises(DeploymentError, match=r"Parameter raw is .*nowhere, and there is no such file here"):
        with_stored_files(deployment, {"raw": str(tmp_path / "nowhere")}, print)
    with pytest.raises(DeploymentError, match=r"of parameter raw can't be stored in the local datastore .*/file: "):
        with_stored_files(deployment, {"raw": str(tmp_path / "file")}, print)


def test_origins_values_are_found_by_their_attributes():
    rate, count = ParameterModel("learning-rate", "float", attribute="rate"), ParameterModel("a-count", "int")
    deployment = replace(DEPLOYMENT, parameters=(rate, count), compiled_by=CompilerVersion("0.2.0", 2))
    assert Origin("17", {"rate": 0.7, "a_count": 3}, {}).parameters(deployment) == {"learning-rate": 0.7, "a-count": 3}
    # the run may be older than the parameter
    assert Origin("17", {"rate": 0.7}, {}).parameters(deployment) == {"learning-rate": 0.7}


def test_attribute_that_a_file_of_version_0_1_does_not_tell_is_never_taken_for_one_that_is_not_there():
    deployment = replace(DEPLOYMENT, parameters=(ParameterModel("learning-rate", "float"),), compiled_by=None)
    assert Origin("17", {"rate": 0.7}, {"learning-rate": "rate"}).parameters(deployment) == {"learning-rate": 0.7}
    assert Origin("17", {}, {"learning-rate": "rate"}).parameters(deployment) == {}
    assert Origin("17", {"learning_rate": 0.7}, {}).parameters(deployment) == {"learning-rate": 0.7}
    with pytest.raises(DeploymentError, match=r"which attribute of flow F is its parameter learning-rate"):
        Origin("17", {"rate": 0.7}, {}).parameters(deployment)


def test_pairs_hold_an_equals_sign():
    assert split_run_params(["a=b=c", "d="]) == {"a": "b=c", "d": ""}
    with pytest.raises(DeploymentError, match="KEY=VALUE"):
        split_run_params(["a"])
