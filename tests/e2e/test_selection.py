"""A selection of assets is a resume: the selected steps run, and those before them are cloned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from support import Project, failure_description, load, steps_started

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

    import metaflow

FLOW = "SelectedFlow"


class Selections:
    """A flow whose assets are materialized, with one instance of Dagster for all of its runs."""

    def __init__(self, project: Project, instance: dg.DagsterInstance):
        self.project = project
        self.instance = instance
        project.compile("selected.py")
        self.module: ModuleType = load(project.folder / "defs.py")

    def materialize(
        self, *steps: str, config: dict[str, Any] | None = None, **options: Any
    ) -> dg.ExecuteInProcessResult:
        """Materialize the assets of some steps, or all."""
        ops = {} if config is None else {"ops": {FLOW: {"ops": {"start": {"config": config}}}}}
        with steps_started("metaflow"):
            return dg.materialize(
                self.module.ASSETS,
                selection=[dg.AssetKey([FLOW, step]) for step in steps] or None,
                instance=self.instance,
                run_config=ops,
                raise_on_error=False,
                **options,
            )

    def run_of(self, result: dg.ExecuteInProcessResult) -> metaflow.Run:
        return self.project.metaflow_run(FLOW, f"dagster-{result.run_id}")


@pytest.fixture(scope="module")
def selections(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Selections]:
    project = Project.of(tmp_path_factory.mktemp("selections") / "project", "selected.py")
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        patch.setenv("METAFLOW_HOME", str(project.folder / "home"))
        yield Selections(project, instance)


@pytest.fixture(scope="module")
def whole(selections) -> dg.ExecuteInProcessResult:
    """A run of all assets."""
    result = selections.materialize()
    assert result.success
    return result


def _materialized(result: dg.ExecuteInProcessResult) -> list[str]:
    return sorted(event.asset_key.path[-1] for event in result.get_asset_materialization_events())


def _messages(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult) -> str:
    return "\n".join(entry.user_message for entry in instance.all_logs(result.run_id))


def _is_clone(task: metaflow.Task) -> bool:
    return "origin-task-id" in task.metadata_dict


def _refusal(result: dg.ExecuteInProcessResult) -> str:
    (failed,) = [event for event in result.all_events if event.event_type == dg.DagsterEventType.STEP_FAILURE]
    return failure_description(failed)


def test_all_assets_are_a_run_of_the_whole_flow(selections, whole):
    run = selections.run_of(whole)
    assert run.successful
    assert run["end"].task.data.origin is None
    assert _materialized(whole) == sorted(["start", "work", "join", "choose", "short", "loop", "end"])
    tags = selections.instance.get_run_by_id(whole.run_id).tags
    assert tags["metaflow/flow"] == FLOW
    assert tags["metaflow/run_id"] == run.id


def test_what_is_before_the_selection_is_cloned_as_by_metaflows_resume(selections, whole):
    origin = selections.run_of(whole)
    result = selections.materialize("choose", "short", "loop", "end")
    assert result.success
    run = selections.run_of(result)
    options = ["resume", "choose", f"--origin-run-id={origin.id}", "--run-id-file=resumed"]
    selections.project.metaflow("selected.py", "--no-pylint", *options)
    resumed = selections.project.metaflow_run(FLOW, (selections.project.folder / "resumed").read_text())
    assert {step.id for step in run} == {step.id for step in resumed}
    for step in resumed:
        for task, native in zip(sorted(run[step.id], key=str), sorted(step, key=str), strict=True):
            assert _is_clone(task) == _is_clone(native), step.id
    assert run["end"].task.data.origin == resumed["end"].task.data.origin == origin.id
    assert run["join"].task.data.joined_by == origin.id
    assert run["end"].task.data.ended_by == run.id
    assert _materialized(result) == ["choose", "end", "loop", "short"]
    assert f"are cloned from Metaflow run {origin.id}" in _messages(selections.instance, result)
    assert selections.instance.get_run_by_id(result.run_id).tags["metaflow/origin_run_id"] == origin.id


@pytest.mark.parametrize(
    ("selected", "ran"),
    [
        (["work"], ["work"]),
        (["start", "join"], ["join", "start"]),
        # the origin has gone the short way
        (["long", "end"], ["end"]),
    ],
)
def test_selected_steps_alone_run(selections, whole, selected: Sequence[str], ran: Sequence[str]):
    result = selections.materialize(*selected)
    assert result.success
    run = selections.run_of(result)
    own = {step.id for step in run for task in step if not _is_clone(task)}
    assert own == set(ran)
    assert _materialized(result) == list(ran)
    if "long" in selected:
        assert "goes on to short: what comes only behind long is skipped" in _messages(selections.instance, result)


def test_parameters_are_the_origins_unless_the_config_gives_them(selections, whole):
    result = selections.materialize("choose", config={"way": "long"})
    assert result.success
    run = selections.run_of(result)
    assert run["choose"].task.data.chosen == "long"
    assert run["choose"].task.data.numbers == [0, 1]


def test_selection_without_origin_fails_before_anything_runs_and_says_what_is_missing(tmp_path):
    project = Project.of(tmp_path / "project", "selected.py")
    with dg.DagsterInstance.ephemeral() as instance:
        own = Selections(project, instance)
        nothing = own.materialize("join")
        first = own.materialize("start")
        assert first.success
        some = own.materialize("join")
    for result, missing in ((nothing, "start, work"), (some, "work")):
        assert not result.success
        assert f"Materialize {missing}, too" in _refusal(result)
        assert _materialized(result) == []


def test_clone_that_the_new_items_need_is_missing(selections, whole):
    """More items than the origin had: nothing succeeds on part of them."""
    result = selections.materialize("start", "join", config={"size": 3})
    assert not result.success
    assert "work is not selected, and can't be cloned" in _refusal(result).replace(
        "Step work of flow SelectedFlow (attempt 0)", "work"
    )
    assert "at its place 2" in _refusal(result)
    assert _materialized(result) == ["start"]


BRANCHES = """
from metaflow import FlowSpec, current, step

class SelectedFlow(FlowSpec):
    @step
    def start(self):
        self.next(self.left, self.right)

    @step
    def left(self):
        self.made_by = current.run_id
        self.next(self.join)

    @step
    def right(self):
        self.next(self.join)

    @step
    def join(self, inputs):
        self.made_by = inputs.left.made_by
        self.next(self.end)

    @step
    def end(self):
        pass

if __name__ == "__main__":
    SelectedFlow()
"""


def test_clone_of_older_data_than_the_assets_is_a_warning(tmp_path):
    """Only the first run has done both branches, so that it is the origin; the second one has made one of them anew."""
    project = Project.of(tmp_path / "project")
    project.write("selected.py", BRANCHES)
    with dg.DagsterInstance.ephemeral() as instance:
        selections = Selections(project, instance)
        whole, newer, joined = (selections.materialize(*steps) for steps in ((), ("left",), ("join",)))
        assert whole.success
        assert newer.success
        assert joined.success
        message = f"Asset {FLOW}/left has been materialized with other data since: by Dagster run {newer.run_id}"
        assert message in _messages(instance, joined)
    assert selections.run_of(joined)["join"].task.data.made_by == selections.run_of(whole).id
