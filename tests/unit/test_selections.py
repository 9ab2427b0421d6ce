"""Selections of assets: whatever the graph, the selected steps run, and all before them are cloned from one run.

The random flows, the interpreter and the stub in place of tasks are those of `test_graph_properties`.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import flow_model, step_model
from support import load
from test_graph_properties import NAMES, Elements, Interpreter, StubClient, flows, step_models

from metaflow_pipes.compile.job_options import JobOptions
from metaflow_pipes.compile.lowering import lower
from metaflow_pipes.compile.rendering import render
from metaflow_pipes.runtime import MetaflowPipesClient
from metaflow_pipes.runtime.selection import selection
from step_wrapper import wire
from step_wrapper.step.origin import place, steps_not_done

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from types import ModuleType

    from metaflow_pipes.compile.flow_model import StepModel


def _module(folder: Path, steps: Iterable[StepModel], *options: str, **more: Any) -> ModuleType:
    (folder / "flow.py").write_bytes(b"")
    model = replace(
        flow_model(*steps),
        file=str(folder / "flow.py"),
        working_directory=str(folder),
        datastore_root=str(folder / ".metaflow"),
        fingerprint=f"sha256:{hashlib.sha256(b'').hexdigest()}",
    )
    definitions = folder / "defs.py"
    definitions.write_text(render(lower(model, JobOptions(**more)), definitions))
    return load(definitions)


def _above(steps: Sequence[StepModel], selected: Iterable[str]) -> set[str]:
    """The selected steps and all before them, by another way than the code's."""
    found = set(selected)
    while True:
        more = {name for step in steps if step.name in found for name in step.in_steps} - found
        if not more:
            return found
        found |= more


class SelectionClient(StubClient):
    """Records what the requests say of cloning, too."""

    def __init__(self, expected: Any):
        super().__init__(expected)
        self.resumptions: list[wire.Resumption | None] = []

    def run(self, *, context: dg.OpExecutionContext, extras: Any = None, **options: Any) -> Any:
        self.resumptions.append(wire.Request(**wire.Request.values_in(extras)).resumption)
        return super().run(context=context, extras=extras, **options)


@pytest.mark.parametrize("first", ["foreach", "switch", "split", "step"])
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), seed=st.integers(0, 9))
def test_selected_steps_run_and_those_before_them_are_cloned(tmp_path_factory, first, data, seed):
    flow: Elements = data.draw(flows(NAMES, first))
    steps = step_models(flow)
    names = [step.name for step in steps]
    selected = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    module = _module(tmp_path_factory.mktemp("selection"), steps)
    interpreter = Interpreter(seed)
    interpreter.run(flow, "parameters")
    client = SelectionClient(interpreter.tasks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetaflowPipesClient, "run", lambda _, **options: client.run(**options))
        result = dg.materialize(
            module.ASSETS,
            selection=[dg.AssetKey(["SomeFlow", name]) for name in selected],
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
    needed = _above(steps, selected)
    expected = {task for task in interpreter.tasks if task.partition("-")[0] in needed}
    assert Counter(client.launched) == Counter(expected)
    clones = [name for name in names if name in needed - set(selected)]
    is_whole = len(selected) == len(names)
    for resumption in client.resumptions:
        assert (resumption is None) == (is_whole or not clones)
        if resumption is not None and resumption.search is not None:
            assert resumption.steps_to_clone == clones
            assert set(resumption.search.upstream) == needed
    materialized = Counter(event.asset_key.path[-1] for event in result.get_asset_materialization_events())
    ran = {task.partition("-")[0] for task in interpreter.tasks}
    assert materialized == Counter(ran.intersection(selected))


class StoredTask(dict):
    """In place of the datastore of a task that is done: its artifacts."""


def _stored(interpreter: Interpreter, done: Iterable[str]) -> dict[tuple[str, str], StoredTask]:
    tasks = {}
    for task in done:
        step, *parts = task.split("-")
        iteration = int(parts.pop()[1:]) if parts and parts[-1].startswith("i") else None
        expected = interpreter.tasks[task]
        tasks[step, place(map(int, parts), iteration)] = StoredTask(
            _transition=(list(expected.next_steps), None), _foreach_num_splits=expected.num_splits
        )
    return tasks


def _with_what_follows(interpreter: Interpreter, undone: Iterable[str]) -> set[str]:
    found = set(undone)
    for task, expected in interpreter.tasks.items():  # each after those that it takes
        if any(taken.partition("[")[0] in found for taken in expected.inputs):
            found.add(task)
    return found


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), seed=st.integers(0, 9))
def test_step_counts_as_done_if_all_tasks_are_that_the_run_needed(data, seed):
    flow: Elements = data.draw(flows(NAMES, data.draw(st.sampled_from(["foreach", "switch", "split", "step"]))))
    steps = step_models(flow)
    interpreter = Interpreter(seed)
    interpreter.run(flow, "parameters")
    tasks = list(interpreter.tasks)
    undone = _with_what_follows(interpreter, data.draw(st.lists(st.sampled_from(tasks), max_size=2)))
    clones = data.draw(st.lists(st.sampled_from([step.name for step in steps]), min_size=1, unique=True))
    needed = _above(steps, clones)
    upstream = {step.name: step.in_steps for step in steps if step.name in needed}
    stored = _stored(interpreter, set(tasks) - undone)
    missing = steps_not_done(stored, steps[0].name, clones, upstream)
    certain = {task.partition("-")[0] for task in undone}.intersection(clones)
    # what a task that is missing would have chosen is not known
    assert certain <= set(missing)
    assert set(missing) <= {name for name in clones if _above(steps, [name]).intersection(map(_step_of, undone))}
    assert undone or not missing


def _step_of(task: str) -> str:
    return task.partition("-")[0]


LINE = [step_model("start"), step_model("prepare", "start"), step_model("train", "prepare"), step_model("end", "train")]


@pytest.mark.parametrize(
    ("assets", "selected", "runs", "clones"),
    [
        (["start", "train"], ["train"], {"train", "end"}, ["start", "prepare"]),
        # what `prepare` makes of the new start is what `train` is made of
        (["start", "prepare", "train", "end"], ["start", "train"], {"start", "train"}, ["prepare"]),
        (["start", "train", "end"], ["start", "end"], {"start", "prepare", "end"}, ["train"]),
        (["start", "train", "end"], ["start"], {"start", "prepare"}, []),
        (["train", "end"], ["end"], {"end"}, ["start", "prepare", "train"]),
    ],
)
def test_step_without_asset_runs_behind_one_that_runs(tmp_path, assets, selected, runs, clones):
    translator = tmp_path / f"translator_{random.randrange(10**9)}.py"
    translator.write_text(
        "from metaflow_pipes.runtime import DagsterMetaflowTranslator\n\n"
        "class Some(DagsterMetaflowTranslator):\n"
        f"    def includes(self, flow, step):\n        return step.name in {assets}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        flow = _module(tmp_path, LINE, translator=f"{translator.stem}:Some").FLOW
    found = selection(flow, selected)
    assert found is not None
    assert found.runs == runs
    assert list(found.clones) == clones


def test_selection_of_all_assets_is_none(tmp_path):
    flow = _module(tmp_path, LINE).FLOW
    assert selection(flow, ["start", "prepare", "train", "end"]) is None
