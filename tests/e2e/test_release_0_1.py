"""Definitions files that earlier releases wrote: they load, run, and give the same as ever.

`tests/generated_0_1` holds them as release 0.1 wrote them, beside the flows that they were compiled from, and
`tests/generated_format_2` holds one of the last version before format 3. They are never compiled again.
"""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from support import Project, execute, job_of

from metaflow_pipes.deployment.definitions_file import read_deployment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TESTS = Path(__file__).parent.parent
NESTED_STEPS = {"start", "outer", "side", "big", "small", "weighed", "fan", "inner", "inner_join", "meet"}
NESTED_STEPS |= {"outer_join", "end"}
PARAMETERS = {"linear_dagster.py": {"alpha": 2.0, "columns": ["a", "b"], "rows": None}}


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project with the flows and the definitions files."""
    folder = tmp_path_factory.mktemp("release_0_1") / "project"
    for generated in ("generated_0_1", "generated_format_2"):
        shutil.copytree(TESTS / generated, folder, dirs_exist_ok=True)
    (folder / ".metaflow").mkdir()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(str(folder))
        yield Project(folder)


@pytest.fixture(scope="module")
def run_once(released: Project) -> Callable[[str], dg.ExecuteInProcessResult]:
    """A run of each definitions file, which the tests share."""
    return functools.cache(lambda file: execute(job_of(released.folder / file), PARAMETERS.get(file)))


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("linear_dagster.py", (4.0, ("4", "eu"), "test.frozen", ["a", "b"], None)),
        ("nested_dagster.py", [([0], 1), ([0, 1], 10)]),
        ("nested_format_2_dagster.py", [([0], 1), ([0, 1], 10)]),
        ("loops_dagster.py", [("stopped", 1), ("otherwise", 2)]),
        ("gang_dagster.py", [0, 1]),
    ],
)
def test_run_gives_the_artifacts_of_its_release(released, run_once, file, expected):
    result = run_once(file)
    assert result.success
    assert released.run_of(result).data.result == expected


@pytest.mark.parametrize("file", ["nested_dagster.py", "nested_format_2_dagster.py"])
def test_step_keys_are_those_of_the_release(run_once, file):
    events = run_once(file).all_events
    keys = {event.step_key for event in events if event.event_type == dg.DagsterEventType.STEP_SUCCESS}
    assert {"start", "outer[1]", "fan_out_inner", "inner[1_0]", "route_side", "big[1]", "regroup_meet", "end"} <= keys


def test_ops_and_iterations_are_retried(released, run_once):
    events = run_once("linear_dagster.py").all_events
    retried = [event.step_key for event in events if event.event_type == dg.DagsterEventType.STEP_UP_FOR_RETRY]
    assert retried == ["flaky"]
    loop = released.run_of(run_once("loops_dagster.py"))["loop"]
    assert {task.id: task.current_attempt for task in loop} == {"loop-i0": 0, "loop-i1": 1, "loop-i2": 0}


@pytest.mark.parametrize(
    ("file", "prefix", "steps"),
    [
        ("linear_dagster.py", ("shop", "shop.test.frozen.LinearFlow"), {"flaky", "type", "join", "end"}),
        ("gang_dagster.py", ("GangFlow",), {"start", "train", "join", "end"}),
        ("nested_format_2_dagster.py", ("nightly",), NESTED_STEPS),
    ],
)
def test_assets_keep_their_keys(run_once, file, prefix, steps):
    materialized = {tuple(event.asset_key.path) for event in run_once(file).get_asset_materialization_events()}
    assert materialized == {(*prefix, step) for step in steps}


def test_commands_read_it(released):
    deployment = read_deployment(released.folder / "linear_dagster.py")
    assert deployment.name == "shop_test_frozen_LinearFlow"
    assert deployment.op_names["type"] == "type_"
    assert [parameter.name for parameter in deployment.parameters] == ["alpha", "columns", "rows"]


def test_trigger_runs_it(released, tmp_path):
    options = ("--definitions-file", "gang_dagster.py", "--wait", "--run-id-file", "run_id")
    released.metaflow("gang.py", "dagster", "trigger", *options, DAGSTER_HOME=str(tmp_path))
    assert released.metaflow_run("GangFlow", (released.folder / "run_id").read_text()).data.result == [0, 1]
