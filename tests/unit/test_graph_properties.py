"""Lowering of graphs: whatever the nesting, the generated job runs the tasks that Metaflow would, on the same inputs.

Random flows are lowered, rendered, imported and executed by Dagster. Only the launch of a task's process is replaced:
a stub answers for the task, and records what it was asked for. What is asked for is compared with an interpreter
that walks the flow as it was written, and knows nothing of graphs.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import flow_model
from support import job_of

from metaflow_pipes.compile.flow_model import StepModel
from metaflow_pipes.compile.job_options import JobOptions
from metaflow_pipes.compile.lowering import lower
from metaflow_pipes.compile.rendering import render
from metaflow_pipes.runtime import MetaflowPipesClient
from step_wrapper import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

# From here on, a flow gets no more elements than it needs.
MANY_STEPS = 10
MAX_DEPTH = 3
MAX_FOREACH_SIZE = 3
MAX_ITERATIONS = 3


# Flows as they are written: elements one after another. What has several ends goes on to the element that follows.


@dataclass(frozen=True)
class Step:
    """A step that goes on to the next one."""

    name: str


@dataclass(frozen=True)
class Split:
    """A step with branches that run side by side, and the join of their ends."""

    name: str
    branches: tuple[Elements, ...]
    join: str


@dataclass(frozen=True)
class Foreach:
    """A step with a body that runs for each item, and the join of its ends; the size None depends on the task."""

    name: str
    body: Elements
    join: str
    size: int | None = None


@dataclass(frozen=True)
class Switch:
    """A step that chooses one of its cases.

    Attributes:
        name: The step.
        cases: What can follow; an empty one goes straight to what follows the switch.
        repeats: Whether the step can also choose itself.
        falls_through: Whether the first case goes on to the second one.
        choice: The case that every task of the step chooses; None if that depends on the task.
    """

    name: str
    cases: tuple[Elements, ...]
    repeats: bool = False
    falls_through: bool = False
    choice: int | None = None


Element = Step | Split | Foreach | Switch
Elements = tuple[Element, ...]


def _ends_in_switch(elements: Elements) -> bool:
    """Whether a switch step is among the last steps. Metaflow refuses that before a join."""
    last = elements[-1]
    return isinstance(last, Switch) and any(not case or _ends_in_switch(case) for case in last.cases)


@st.composite
def flows(draw: st.DrawFn, all_names: Sequence[str], first: str) -> Elements:
    """A flow of few steps, the first of a kind; their names come in any order, as Metaflow sorts by them."""
    names = list(all_names)
    random.Random(draw(st.integers(0, 99))).shuffle(names)

    def is_long() -> bool:
        return len(all_names) - len(names) >= MANY_STEPS

    def sequence(depth: int, before_join: bool = False) -> Elements:
        elements = tuple(element(depth) for _ in range(1 if is_long() else draw(st.integers(1, 2 if depth else 3))))
        return (*elements, Step(names.pop())) if before_join and _ends_in_switch(elements) else elements

    def element(depth: int) -> Element:
        kinds = "step" if depth == MAX_DEPTH or is_long() else "step foreach switch split foreach switch"
        return element_of(draw(st.sampled_from(kinds.split())), depth)

    def element_of(kind: str, depth: int) -> Element:
        name = names.pop()
        if kind == "foreach":
            return Foreach(name, sequence(depth + 1, before_join=True), join=names.pop())
        if kind == "split":
            branches = [sequence(depth + 1, before_join=True) for _ in range(draw(st.sampled_from([2, 2, 3])))]
            return Split(name, tuple(branches), join=names.pop())
        return switch(name, depth) if kind == "switch" else Step(name)

    def switch(name: str, depth: int) -> Switch:
        size = draw(st.integers(1, 3))
        empty = draw(st.none() | st.integers(0, size - 1))
        return Switch(
            name,
            tuple(() if case == empty else sequence(depth + 1) for case in range(size)),
            repeats=draw(st.booleans()),
            falls_through=size > 1 and empty not in (0, 1) and draw(st.booleans()),
            choice=draw(st.none() | st.integers(0, size - 1)),
        )

    others = draw(st.integers(0, 2))
    elements = (element_of(first, 0), *(element(0) for _ in range(others)), Step(names.pop()))
    # Metaflow lets nothing go on to a start step, not even itself
    starts_with_loop = isinstance(elements[0], Switch) and elements[0].repeats
    return (Step(names.pop()), *elements) if starts_with_loop else elements


def step_models(flow: Elements) -> list[StepModel]:
    """The steps as the reader finds them in Metaflow's graph."""
    steps: dict[str, dict[str, Any]] = {}
    in_steps: dict[str, set[str]] = {}
    out_steps: dict[str, list[str]] = {}

    def add(name: str, sources: Sequence[str], region: tuple[str, ...], kind: str = "plain", join: bool = False) -> str:
        steps[name] = {"kind": kind, "is_join": join, "region": region}
        in_steps[name] = set(sources)
        for source in sources:
            out_steps.setdefault(source, []).append(name)
        return name

    def walk(elements: Elements, sources: Sequence[str], region: tuple[str, ...]) -> Sequence[str]:
        """Add steps that follow some sources, and return the last ones."""
        for element in elements:
            match element:
                case Step(name):
                    sources = [add(name, sources, region)]
                case Split(name, branches, join):
                    add(name, sources, region)
                    ends = [end for branch in branches for end in walk(branch, [name], region)]
                    sources = [add(join, ends, region, join=True)]
                case Foreach(name, body, join):
                    add(name, sources, region, kind="foreach")
                    sources = [add(join, walk(body, [name], (*region, name)), region, join=True)]
                case Switch(name, (first, *others), repeats, falls_through):
                    add(name, sources, region, kind="switch")
                    out_steps[name] = [name] if repeats else []
                    sources = walk(first, [name], region)
                    if falls_through:
                        sources = walk(others.pop(0), [name, *sources], region)
                    sources = [*sources, *(end for case in others for end in walk(case, [name], region))]
        return sources

    walk(flow, [], ())
    return [
        StepModel(name, in_steps=tuple(sorted(in_steps[name])), out_steps=tuple(out_steps.get(name, ())), **steps[name])
        for name in steps
    ]


@dataclass(frozen=True)
class Task:
    """A task that is to run; `inputs` are the ids of tasks, with `[index]` behind it for a foreach's item."""

    inputs: tuple[str, ...]
    next_steps: tuple[str, ...]
    num_splits: int | None = None


@dataclass
class Interpreter:
    """Runs a flow as Metaflow does, on paper. What a task of user code would decide is drawn from its id."""

    seed: int
    tasks: dict[str, Task] = field(default_factory=dict)

    def run(self, elements: Elements, upstream: str, place: tuple[int, ...] = (), following: str = "") -> str:
        """Run elements after one task, before the step `following`, and return the last task."""
        names = [*(element.name for element in elements[1:]), following]
        for element, next_name in zip(elements, names, strict=False):
            upstream = self._run_one(element, upstream, place, next_name)
        return upstream

    def _run_one(self, element: Element, upstream: str, place: tuple[int, ...], following: str) -> str:
        task = "-".join([element.name, *map(str, place)])
        match element:
            case Step():
                return self._add(task, [upstream], [following] if following else [])
            case Split(_, branches, join):
                self._add(task, [upstream], [branch[0].name for branch in branches])
                ends = [self.run(branch, task, place, join) for branch in branches]
                return self._add("-".join([join, *map(str, place)]), sorted(ends, key=_step_of), [following])
            case Foreach(_, body, join, fixed_size):
                size = fixed_size or 1 + self._draw(task, MAX_FOREACH_SIZE)
                self._add(task, [upstream], [body[0].name], size)
                ends = [self.run(body, f"{task}[{index}]", (*place, index), join) for index in range(size)]
                return self._add("-".join([join, *map(str, place)]), ends, [following])
            case Switch(name, cases, repeats, falls_through, choice):
                number = self._draw(task, len(cases)) if choice is None else choice
                chosen = cases[number] + (cases[1] if falls_through and number == 0 else ())
                last = self._draw(f"{task} loop", MAX_ITERATIONS) if repeats else 0
                for iteration in range(last + 1):
                    next_step = name if iteration < last else chosen[0].name if chosen else following
                    upstream = self._add(f"{task}-i{iteration}" if repeats else task, [upstream], [next_step])
                return self.run(chosen, upstream, place, following)

    def _add(self, task: str, inputs: list[str], next_steps: list[str], num_splits: int | None = None) -> str:
        assert task not in self.tasks
        self.tasks[task] = Task(tuple(inputs), tuple(next_steps), num_splits)
        return task

    def _draw(self, subject: str, limit: int) -> int:
        return random.Random(f"{self.seed} {subject}").randrange(limit)


def _step_of(task: str) -> str:
    return task.partition("-")[0]


class StubClient(MetaflowPipesClient):
    """In place of running tasks, says what they would report, and records what was asked for."""

    def __init__(self, expected: Mapping[str, Task]):
        super().__init__()
        self._expected = expected
        self.launched: list[str] = []
        self.inputs: dict[str, tuple[str, ...]] = {}

    def run(self, *, context: dg.OpExecutionContext, extras: Any = None, **_: Any) -> Any:
        request = wire.Request(**wire.Request.values_in(extras))
        task = request.task_id
        options = dict(argument.partition("=")[::2] for argument in request.command)
        item = f"[{options['--split-index']}]" if "--split-index" in options else ""
        paths = [path.split("/") for path in options["--input-paths"].split(",")]
        assert {run_id for run_id, _, _ in paths} == {f"dagster-{context.run.run_id}"}
        assert all(step in (_step_of(task_id), "_parameters") for _, step, task_id in paths)
        assert request.step == _step_of(task)
        self.launched.append(task)
        self.inputs[task] = tuple(f"{task_id}{item}" for _, _, task_id in paths)
        assert task in self._expected, f"Metaflow would not run {task}"
        report: wire.Report = {
            "task_id": task,
            "duration_seconds": 0,
            "is_cached": False,
            "cloned_from": None,
            "next_steps": self._expected[task].next_steps,
            "num_splits": self._expected[task].num_splits,
            "control_tasks": [],
            "failure": None,
        }
        return SimpleNamespace(
            get_custom_messages=lambda: [wire.report_message(report)], get_results=lambda **_: [], metadata={}
        )


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance for all runs, which keeps none of the events but those that a run of a flow asks for."""
    kinds = dg.DagsterEventType
    kept = {kinds.STEP_START, kinds.STEP_SUCCESS, kinds.ASSET_MATERIALIZATION}
    with dg.DagsterInstance.ephemeral() as instance:
        store = instance.event_log_storage.store_event

        def store_some(event: dg.EventLogEntry) -> None:
            if event.dagster_event is not None and event.dagster_event.event_type in kept:
                store(event)

        instance.event_log_storage.store_event = store_some
        yield instance


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory, instance: dg.DagsterInstance) -> Callable[[Elements, int], None]:
    """Compiles and runs a flow, and compares what ran with what Metaflow would run."""
    folder: Path = tmp_path_factory.mktemp("graphs")
    (folder / "flow.py").write_bytes(b"")

    def run_and_compare(flow: Elements, seed: int = 0) -> None:
        model = replace(
            flow_model(*step_models(flow)),
            file=str(folder / "flow.py"),
            working_directory=str(folder),
            datastore_root=str(folder / ".metaflow"),
            fingerprint=f"sha256:{hashlib.sha256(b'').hexdigest()}",
        )
        job = lower(model, JobOptions())
        definitions = folder / "defs.py"
        definitions.write_text(render(job, definitions))
        interpreter = Interpreter(seed)
        interpreter.run(flow, "parameters")
        client = StubClient(interpreter.tasks)
        result = job_of(definitions).execute_in_process(
            instance=instance,
            resources={"metaflow_pipes": client},
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
        assert client.inputs == {task: expected.inputs for task, expected in interpreter.tasks.items()}
        assert Counter(client.launched).most_common(1)[0][1] == 1
        outside = {op.name: op.step.name for op in job.ops if not op.step.region}
        skipped = {event.step_key for event in result.all_events if event.event_type_value == "STEP_SKIPPED"}
        ran = set(map(_step_of, client.launched))
        assert skipped & outside.keys() == {op for op, step in outside.items() if step not in ran}
        launched = Counter(map(_step_of, client.launched))
        materializations = [event.materialization for event in result.get_asset_materialization_events()]
        assert Counter(event.asset_key.path[1] for event in materializations) == Counter(ran)
        # an event for each task would come on top of those that the join has
        loading = {event.step_key for event in result.all_events if event.event_type_value == "LOADED_INPUT"}
        assert not loading & {helper.name for helper in job.helpers if helper.factory == "collect"}
        for event in materializations:
            if "tasks" in event.metadata:
                assert event.metadata["tasks"].value == launched[event.asset_key.path[1]]

    return run_and_compare


# Names that are parts of each other, and of those that the compiler makes up from them.
NAMES = ["_".join(parts) for size in (1, 2, 3) for parts in itertools.product(["a", "b", "output"], repeat=size)]


# One test for each kind of first element, which workers can share among them.
@pytest.mark.parametrize("first", ["foreach", "switch", "split", "step"])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), seed=st.integers(0, 9))
def test_any_flow_runs_the_tasks_that_metaflow_would(check, first, data, seed):
    check(data.draw(flows(NAMES, first)), seed)


def _foreach(name: str, *body: Element) -> Foreach:
    return Foreach(name, body, f"{name}_join")


def _steps(names: str) -> tuple[Step, ...]:
    return tuple(map(Step, names.split()))


NAMED_FLOWS: dict[str, Elements] = {
    "switch at each level of three foreachs": (
        _foreach(
            "outer",
            Switch("way", (_steps("a"), _steps("b"))),
            _foreach(
                "middle",
                Switch("way_2", ((_foreach("inner", Switch("way_3", (_steps("c"), ())), Step("d")),), _steps("e"))),
                Step("f"),
            ),
            Step("g"),
        ),
        Switch("last", (_steps("h"), ())),
    ),
    "split branch ends in a switch that converges on the join": (
        Split("fan", ((Switch("way", (_steps("z"), _steps("a b"))),), _steps("m")), "fan_join"),
        _foreach("items", Split("each", (_steps("n"), (Switch("go", (_steps("y"), _steps("c d"))),)), "each_join")),
    ),
    "switch as the whole body of a foreach of more than ten items": (
        Foreach("items", (Switch("way", (_steps("b"), _steps("a c"))),), "join", size=11),
    ),
    "all items choose the same case": (
        _foreach("items", Switch("way", (_steps("a"), _steps("b"), ()), choice=1), Step("c")),
        _foreach("more", Switch("go", (_steps("d"), ()), choice=1), Step("e"), Step("f")),
    ),
    "loop in a foreach with two exits": (
        _foreach("items", Switch("loop", (_steps("a"), _steps("b")), repeats=True), Step("c")),
        _foreach("more", Step("d"), Switch("again", ((), _steps("e")), repeats=True), Step("f")),
    ),
    "loop with one exit": (
        Switch("loop", ((),), repeats=True),
        _foreach("items", Switch("inner_loop", (_steps("a"),), repeats=True)),
    ),
    "foreach inside a switch branch inside a foreach": (
        _foreach("outer", Switch("way", ((Step("a"), _foreach("inner", Step("b"), Step("c"))), ())), Step("d")),
    ),
    "foreach as a case, skipped as a whole": (Switch("way", ((_foreach("items", Step("a")),), _steps("c")), choice=1),),
    "foreach after foreach without a step between": (
        _foreach("one", _foreach("two", Step("a")), _foreach("three", _foreach("four", Step("b")))),
        _foreach("five", Step("c")),
    ),
    "cases that lead into each other": (
        Switch("way", (_steps("a"), _steps("b"), ()), falls_through=True),
        _foreach("items", Switch("go", (_steps("c"), _steps("d e"), _steps("f")), falls_through=True), Step("g")),
    ),
    "split with foreachs of different sizes in its branches": (
        _foreach("outer", Split("both", ((_foreach("l", Step("a")),), (Step("b"), _foreach("r", Step("c")))), "join")),
    ),
    "step named as the merge of another switch": (
        _foreach("items", Switch("a", ((_foreach("b", Step("a_c")),), ())), Step("c")),
    ),
    "merge named as the output of another merge": (
        _foreach(
            "items",
            *(Switch("one", (_steps("p"), _steps("q"))), Step("a")),
            *(Switch("two", (_steps("r"), _steps("s"))), Step("a_output")),
        ),
    ),
    "case named as the output of another case": (
        _foreach("items", Switch("way", (_steps("x"), _steps("x_output"))), Step("a")),
    ),
}


@pytest.mark.parametrize("name", NAMED_FLOWS)
def test_named_flow_runs_the_tasks_that_metaflow_would(check, name):
    for seed in range(2):
        check((Step("start"), *NAMED_FLOWS[name], Step("end")), seed)
