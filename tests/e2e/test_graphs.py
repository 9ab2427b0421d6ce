"""Every shape of graph gives the tasks and artifacts of Metaflow's own `run`."""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import EXAMPLES, Project, execute, failure_description, failures, job_of, load, materialization

if TYPE_CHECKING:
    from collections.abc import Callable

    import dagster as dg


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Project, dg.ExecuteInProcessResult]]:
    """Runs a flow of `tests/flows` with parameters, once for all tests of this module that look at that run."""

    @functools.cache
    def run(flow: str, **parameters: Any) -> tuple[Project, dg.ExecuteInProcessResult]:
        flows = Project.of(tmp_path_factory.mktemp("graphs") / "project", flow)
        return flows, execute(job_of(flows.compile(flow)), parameters or None)

    return run


def _tasks(run):
    """For each step, the public artifacts and the foreach stack of each of its tasks, in no order."""
    return {
        step.id: sorted(
            json.dumps(
                {
                    artifact.id: artifact.data
                    for artifact in task
                    if not artifact.id.startswith("_") or artifact.id == "_foreach_stack"
                },
                sort_keys=True,
                default=str,
            )
            for task in step
        )
        for step in run
    }


def _skipped(result):
    return {event.step_key for event in result.all_events if event.event_type_value == "STEP_SKIPPED"}


@pytest.mark.parametrize(
    ("flow", "parameters"),
    [
        ("foreach.py", {"count": 1}),
        ("foreach.py", {"count": 2}),
        ("nested.py", {}),
        ("switches.py", {"way": "many"}),
        ("switches.py", {"way": "few"}),
        ("switches.py", {"way": "none"}),
        ("loops.py", {}),
        ("parallel_steps.py", {}),
        ("unbounded.py", {}),
        ("shared_body.py", {"way": "one"}),
        ("shared_body.py", {"way": "two"}),
    ],
)
def test_tasks_are_those_of_metaflows_own_run(ran, flow, parameters):
    flows, result = ran(flow, **parameters)
    assert result.success
    run = flows.run_of(result)
    assert run.successful
    native = flows.native_run(flow, *(f"--{name}={value}" for name, value in parameters.items()))
    assert _tasks(run) == _tasks(native)


def test_task_ids_and_step_keys_show_the_place(ran):
    flows, result = ran("nested.py")
    run = flows.run_of(result)
    succeeded = {event.step_key for event in result.all_events if event.event_type_value == "STEP_SUCCESS"}
    for step, keys in (("outer", ["0", "1"]), ("leaf", ["1_1_0", "1_1_1"])):
        assert {task.id for task in run[step]} == {f"{step}-{key.replace('_', '-')}" for key in keys}
        assert {f"{step}[{key}]" for key in keys} <= succeeded
    leaf = next(task for task in run["leaf"] if task.id == "leaf-1-1-0")
    assert [frame.index for frame in leaf["_foreach_stack"].data] == [1, 1, 0]


def test_foreach_join_takes_its_inputs_by_index(ran):
    flows, result = ran("nested.py")
    tasks = flows.run_of(result)["middle_join"]
    assert {task.id: task["_places"].data for task in tasks} == {
        "middle_join-0": [0],
        "middle_join-1": [0, 1, 2],
    }


def test_branches_that_were_not_chosen_are_skipped(ran):
    _, result = ran("switches.py", way="few")
    assert _skipped(result) >= {"many", "joined", "right"}
    flows, result = ran("switches.py", way="none")
    assert _skipped(result) >= {"many", "joined", "few", "left", "right", "merged"}
    assert {step.id for step in flows.run_of(result)} == {"start", "end"}


def _materialized(result):
    return sorted(event.asset_key.path[-1] for event in result.get_asset_materialization_events())


@pytest.mark.parametrize(("flow", "parameters"), [("foreach.py", {"count": 2}), ("nested.py", {})])
def test_foreach_step_is_materialized_once_with_its_tasks_and_durations(ran, flow, parameters):
    flows, result = ran(flow, **parameters)
    run = flows.run_of(result)
    assert _materialized(result) == sorted(step.id for step in run)
    durations = {
        event.step_key: event.event_specific_data.duration_ms / 1000
        for event in result.all_events
        if event.event_type_value == "STEP_SUCCESS"
    }
    counted = 0
    for step in run:
        metadata = materialization(result, step.id).metadata
        if "tasks" not in metadata or "total_duration_seconds" not in metadata:
            continue
        counted += 1
        own = [seconds for key, seconds in durations.items() if key.startswith(f"{step.id}[")]
        assert metadata["tasks"].value == len(list(step)) == len(own)
        # Dagster records the times of its events, a moment later
        assert metadata["total_duration_seconds"].value == pytest.approx(sum(own), rel=0.2, abs=0.2)
        assert metadata["longest_duration_seconds"].value == pytest.approx(max(own), rel=0.2, abs=0.1)
        assert metadata["pathspec"].value == step.pathspec
        assert "artifacts" not in metadata
    assert counted >= 1


def test_branch_that_was_not_chosen_is_not_materialized(ran):
    flows, result = ran("switches.py", way="few")
    ran_steps = {step.id for step in flows.run_of(result)}
    defined = {spec.key.path[-1] for spec in load(flows.folder / "defs.py").defs.resolve_all_asset_specs()}
    assert set(_materialized(result)) == ran_steps
    assert ran_steps < defined


def test_recursive_step_is_materialized_once(ran):
    flows, result = ran("loops.py")
    assert _materialized(result) == sorted(step.id for step in flows.run_of(result))
    metadata = [event.materialization.metadata for event in result.get_asset_materialization_events()]
    assert max(entries["iterations"].value for entries in metadata if "iterations" in entries) > 1


def test_parallel_step_is_materialized_once(ran):
    flows, result = ran("parallel_steps.py")
    assert _materialized(result) == sorted(step.id for step in flows.run_of(result))
    assert any(event.materialization.metadata.get("tasks") for event in result.get_asset_materialization_events())


def test_loop_shows_its_iterations(ran):
    flows, result = ran("loops.py")
    (output,) = [e for e in result.all_events if e.event_type_value == "STEP_OUTPUT" and e.step_key == "loop"]
    rows = [record.data for record in output.event_specific_data.metadata["iterations"].records]
    assert [row["iteration"] for row in rows] == [0, 1, 2]
    assert [row["pathspec"].split("/")[-1] for row in rows] == ["loop-i0", "loop-i1", "loop-i2"]
    # the second iteration has been tried again, by itself
    attempts = {task.id: task.current_attempt for task in flows.run_of(result)["loop"]}
    assert attempts == {"loop-i0": 0, "loop-i1": 1, "loop-i2": 0}


def test_each_iteration_of_a_loop_has_its_own_retries(project):
    flows: Project = project()
    flows.write(
        "flow.py",
        "from metaflow import FlowSpec, current, retry, step\n\n"
        "class RetriedLoopFlow(FlowSpec):\n    @step\n    def start(self):\n        self.turns = 0\n"
        "        self.seen = []\n        self.next(self.loop)\n\n"
        "    @retry(times=1, minutes_between_retries=0)\n    @step\n    def loop(self):\n"
        "        if self.turns in (1, 2) and current.retry_count == 0:\n            raise ValueError('fails once')\n"
        "        self.seen = [*self.seen, current.retry_count]\n        self.turns += 1\n"
        "        self.go = 'on' if self.turns == 4 else 'again'\n"
        "        self.next({'again': self.loop, 'on': self.end}, condition='go')\n\n"
        "    @step\n    def end(self):\n        assert self.seen == [0, 1, 1, 0]\n\n"
        "if __name__ == '__main__':\n    RetriedLoopFlow()\n",
    )
    assert flows.native_run("flow.py").successful
    assert flows.run("flow.py").success


def test_loop_fails_after_the_last_retry_of_an_iteration(project):
    flows: Project = project("loops.py")
    source = (flows.folder / "loops.py").read_text()
    flows.write("loops.py", source.replace("current.retry_count == 0", "current.retry_count < 5"))
    result = flows.run("loops.py")
    (failed,) = failures(result, "loop")
    assert "(attempt 1) failed: ValueError: in its second iteration" in failure_description(failed)


@pytest.mark.parametrize("flow", ["parallel_steps.py", "unbounded.py"])
def test_workers_of_a_control_task_run_in_its_interpreter(ran, flow):
    # with Metaflow's own runner, only an activated virtual environment makes it so
    assert str(Path(sys.executable).parent) not in os.environ["PATH"].split(os.pathsep)
    _, result = ran(flow)
    assert result.success


FOREACH = (
    "from metaflow import FlowSpec, catch, current, retry, step\n\n"
    "class ItemsFlow(FlowSpec):\n"
    "{start_decorator}    @step\n    def start(self):\n{start}        self.next(self.work, foreach='items')\n\n"
    "{decorators}    @step\n    def work(self):\n{work}        self.next(self.join)\n\n"
    "    @step\n    def join(self, inputs):\n        self.seen = [getattr(i, 'seen', None) for i in inputs]\n"
    "        self.next(self.end)\n\n"
    "    @step\n    def end(self):\n        pass\n\nif __name__ == '__main__':\n    ItemsFlow()\n"
)


def _items_flow(
    start="        self.items = [0, 1, 2]\n", work="        self.seen = self.input\n", on_start="", on_work=""
):
    return FOREACH.format(start=start, work=work, start_decorator=on_start, decorators=on_work)


@pytest.mark.parametrize(
    ("items", "message"),
    [("[]", "zero splits"), ("42", "not iterable"), ("None", "not iterable")],
)
def test_foreach_over_nothing_is_metaflows_error(project, items, message):
    flows: Project = project()
    flows.write("flow.py", _items_flow(start=f"        self.items = {items}\n"))
    native = flows.metaflow("flow.py", "--no-pylint", "run", check=False).stdout
    assert message in native
    (failed,) = failures(flows.run("flow.py"), "start")
    assert message in failure_description(failed)


def test_switch_value_without_a_case_is_metaflows_error(project):
    flows: Project = project("switches.py")
    result = execute(job_of(flows.compile("switches.py")), {"way": "elsewhere"})
    (failed,) = failures(result, "start")
    assert "elsewhere" in failure_description(failed)


def test_each_item_retries_alone_and_catch_lets_the_others_go_on(project):
    flows: Project = project()
    work = (
        "        self.seen = (self.input, current.retry_count)\n"
        "        if self.input == 1 and current.retry_count == 0:\n            raise ValueError('once')\n"
        "        if self.input == 2:\n            raise ValueError('always')\n"
    )
    decorators = "    @catch(var='problem', print_exception=False)\n    @retry(times=1, minutes_between_retries=0)\n"
    flows.write("flow.py", _items_flow(work=work, on_work=decorators))
    result = flows.run("flow.py")
    assert result.success
    assert flows.run_of(result)["join"].task.data.seen[:2] == [(0, 0), (1, 1)]
    attempts = {task.id: task.current_attempt for task in flows.run_of(result)["work"]}
    assert attempts == {"work-0": 0, "work-1": 1, "work-2": 1}


def test_fan_out_is_that_of_the_attempt_that_succeeds(project):
    flows: Project = project()
    start = (
        "        self.items = list(range(5 - 2 * current.retry_count))\n"
        "        if current.retry_count == 0:\n            raise ValueError('first')\n"
    )
    flows.write("flow.py", _items_flow(start, on_start="    @retry(times=1, minutes_between_retries=0)\n"))
    result = flows.run("flow.py")
    assert flows.run_of(result)["join"].task.data.seen == [0, 1, 2]


def test_examples_give_the_tasks_of_metaflows_own_run(project):
    flows: Project = project()
    flows.write("sweep_flow.py", (EXAMPLES / "sweep_flow.py").read_text())
    result = flows.run("sweep_flow.py", {"starts": 3})
    assert _tasks(flows.run_of(result)) == _tasks(flows.native_run("sweep_flow.py", "--starts=3"))
