"""The heart of lowering: how the tasks of a flow's steps become Dagster outputs that are mapped and collected.

Every step lies in a region: the foreach loops around it. Outside of all of them a step is one task, and its op is
called once. Inside, it is one task for each item, and its op is mapped over a *dynamic output*, whose mapping
keys are the item's indices (`2`, or `2_0` in a foreach within a foreach).

The steps that are mapped over one dynamic output form a *segment*. A step joins the segment of the step before
it. It starts a segment of its own where that can't be:

- it is the first step of a foreach: the items come from the foreach step, directly or, in a foreach within a
  foreach, through a `fan_out` helper, since Dagster maps no dynamic output within another;
- it follows a switch: a `route` helper has a dynamic output for each way, with the items that take it. (Optional
  outputs would do as well, until a run is executed again from failure: of a mapped step that was skipped for any
  item, Dagster then runs no item again);
- it leaves an inner region, merges the ways of a switch, or joins branches of different segments: everything that
  it takes is collected, and a `regroup` helper emits it anew, an item each for the tasks that belong together.

Shapes then combine freely.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from metaflow_pipes.compile.job_model import Body, Call, HelperModel, Reference
from metaflow_pipes.names import RESULT_OUTPUT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from metaflow_pipes.compile.flow_model import StepModel

# The input of an op that takes one task, or all tasks as a list.
UPSTREAM = "upstream"


@dataclass(eq=False)
class _Segment:
    """The steps that are mapped over one dynamic output."""

    name: str
    source: Reference
    calls: list[Call] = field(default_factory=list)
    results: dict[Reference, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Wiring:
    """The result of `wire`.

    Attributes:
        inputs: The inputs of each step's op.
        list_steps: The steps whose op takes a list.
        item_steps: The foreach steps whose op emits the items itself.
        routed_steps: The switches whose ways a `route` helper tells apart.
        collectors: For each step in a foreach, the helper that collects its tasks for its asset.
        helpers: The helper ops.
        statements: The job's body.
    """

    inputs: Mapping[str, tuple[str, ...]]
    list_steps: frozenset[str]
    item_steps: frozenset[str]
    routed_steps: frozenset[str]
    collectors: Mapping[str, str]
    helpers: tuple[HelperModel, ...]
    statements: tuple[Call | Body, ...]


def wire(
    steps: Iterable[StepModel],
    outputs: Mapping[str, Mapping[str, str]],
    op_names: Mapping[str, str],
    taken: Iterable[str] = (),
) -> Wiring:
    """Connect the ops of a flow's steps.

    Args:
        steps: The steps, each after those whose tasks it takes.
        outputs: For each step that is a switch with several exits, the output's name for each of them.
        op_names: The name of each step's op.
        taken: More names that no helper may have.
    """
    wiring = _Wiring({step.name: step for step in steps}, outputs, op_names, taken)
    for step in wiring.steps.values():
        wiring.add(step)
    for step in wiring.steps.values():
        wiring.collect(step)
    return wiring.result()


class _Wiring:
    def __init__(
        self,
        steps: Mapping[str, StepModel],
        outputs: Mapping[str, Mapping[str, str]],
        op_names: Mapping[str, str],
        taken: Iterable[str],
    ):
        self.steps = steps
        self._outputs = outputs
        self._op_names = op_names
        self._taken = {*op_names.values(), *taken}
        self._segments: dict[str, _Segment | None] = {}
        self._routes: dict[str, Reference] = {}
        self._inputs: dict[str, tuple[str, ...]] = {}
        self._list_steps: set[str] = set()
        self._item_steps: set[str] = set()
        self._collectors: dict[str, str] = {}
        self._helpers: list[HelperModel] = []
        self._statements: list[Call | _Segment] = []

    def add(self, step: StepModel) -> None:
        """Connect a step to those before it."""
        if not step.region:
            self._call_once(step)
        elif any(self.steps[in_step].kind == "foreach" for in_step in step.in_steps):
            self._start_segment(step, self._items(step))
        elif len(step.in_steps) == 1 and step.in_steps[0] in self._routes:
            self._start_segment(step, self._way(step.in_steps[0], step))
        elif (segment := self._shared_segment(step)) is not None:
            self._call_in(segment, step)
        else:
            self._start_segment(step, self._helper(step, "regroup", self._collected_list(step), depth=len(step.region)))
        if step.region and step.name in self._outputs:
            switched = (self._collected(Reference(f"task_{step.name}"), step.name),)
            self._routes[step.name] = self._helper(step, "route", switched, outputs=self._outputs[step.name])

    def collect(self, step: StepModel) -> None:
        """Collect the tasks of a step in a foreach for its asset, which a mapped op can't have."""
        if step.region:
            name = self._unique(f"collect_{self._op_names[step.name]}")
            self._collectors[step.name] = name
            self._helpers.append(HelperModel(name, "collect", step=step.name))
            tasks = self._collected(Reference(f"task_{step.name}"), step.name)
            self._statements.append(Call(f"from_{name}", name, name, ((tasks,),)))

    def result(self) -> Wiring:
        """The wiring so far."""
        return Wiring(
            inputs=self._inputs,
            list_steps=frozenset(self._list_steps),
            item_steps=frozenset(self._item_steps),
            routed_steps=frozenset(self._routes),
            collectors=self._collectors,
            helpers=tuple(self._helpers),
            statements=tuple(
                statement if isinstance(statement, Call) else _body(statement) for statement in self._statements
            ),
        )

    # outside of every foreach

    def _call_once(self, step: StepModel) -> None:
        arguments: tuple[Reference | tuple[Reference, ...], ...]
        if step.is_join or len(step.in_steps) > 1:
            self._list_steps.add(step.name)
            arguments = (self._collected_list(step),)
        else:
            arguments = tuple(self._reference(in_step, step) for in_step in step.in_steps)
        self._inputs[step.name] = (UPSTREAM,) if arguments else ()
        self._segments[step.name] = None
        self._statements.append(self._call(step, arguments))

    # inside

    def _items(self, step: StepModel) -> Reference:
        """The dynamic output with the items of the foreach that a step begins."""
        foreach = step.in_steps[0]
        if len(step.in_steps) == 1 and not self.steps[foreach].region:
            self._item_steps.add(foreach)
            return self._reference(foreach, step)
        return self._helper(step, "fan_out", self._collected_list(step))

    def _shared_segment(self, step: StepModel) -> _Segment | None:
        """The segment of all inputs of a step; None if they have not one in the step's own region."""
        if any(self.steps[in_step].region != step.region for in_step in step.in_steps):
            return None
        segments = {self._segments[in_step] for in_step in step.in_steps}
        return segments.pop() if len(segments) == 1 else None

    def _call_in(self, segment: _Segment, step: StepModel) -> None:
        arguments = tuple(self._reference(in_step, step) for in_step in step.in_steps)
        is_single = len(arguments) == 1
        self._inputs[step.name] = (UPSTREAM,) if is_single else tuple(f"{UPSTREAM}_{name}" for name in step.in_steps)
        self._segments[step.name] = segment
        segment.calls.append(self._call(step, arguments))

    def _start_segment(self, step: StepModel, source: Reference) -> None:
        segment = _Segment(step.name, source)
        self._statements.append(segment)
        self._inputs[step.name] = (UPSTREAM,)
        self._segments[step.name] = segment
        segment.calls.append(self._call(step, (Reference(_item(step.name)),)))

    def _collected_list(self, step: StepModel) -> tuple[Reference, ...]:
        """All that a step takes, as one list of outputs that exist once.

        Several collected outputs pass through a `gather` helper each: Dagster takes no list of them.
        """
        references = []
        for in_step in step.in_steps:
            if in_step in self._routes:
                way = self._way(in_step, step)
                reference = Reference(way.variable, way.output, is_collected=True)
            else:
                reference = self._collected(self._reference(in_step, step), in_step)
            if reference.is_collected and len(step.in_steps) > 1:
                reference = self._helper(step, "gather", (reference,), suffix=in_step)
            references.append(reference)
        return tuple(references)

    # parts

    def _reference(self, in_step: str, step: StepModel) -> Reference:
        return Reference(f"task_{in_step}", self._outputs.get(in_step, {}).get(step.name, self._result(in_step)))

    def _result(self, step: str) -> str | None:
        """The one output of a step that others take, where its op has another one for the step's asset."""
        return None if self.steps[step].region else RESULT_OUTPUT

    def _way(self, switch: str, step: StepModel) -> Reference:
        """The items that a switch within a foreach sends to a step."""
        return Reference(self._routes[switch].variable, self._outputs[switch][step.name])

    def _collected(self, reference: Reference, in_step: str) -> Reference:
        """An output of a step as it is taken outside of its segment: collected over all items."""
        segment = self._segments[in_step]
        if segment is None:
            return reference
        if reference not in segment.results:
            segment.results[reference] = self._unique(f"all_{in_step}")
        return Reference(segment.results[reference], is_collected=True)

    def _call(self, step: StepModel, arguments: tuple[Reference | tuple[Reference, ...], ...]) -> Call:
        return Call(f"task_{step.name}", f"op_{step.name}", self._op_names[step.name], arguments)

    def _helper(
        self,
        step: StepModel,
        factory: Literal["fan_out", "gather", "regroup", "route"],
        references: tuple[Reference, ...],
        depth: int | None = None,
        outputs: Mapping[str, str] | None = None,
        suffix: str = "",
    ) -> Reference:
        """Add a helper op that takes references as a list, and return its output."""
        name = self._unique("_".join(filter(None, (factory, self._op_names[step.name], self._op_names.get(suffix)))))
        self._helpers.append(HelperModel(name, factory, depth, outputs or {}))
        self._statements.append(Call(f"from_{name}", name, name, (references,)))
        return Reference(f"from_{name}")

    def _unique(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def _item(step: str) -> str:
    return f"item_{step}"


def _body(segment: _Segment) -> Body:
    return Body(
        function=f"each_{segment.name}",
        item=_item(segment.name),
        source=segment.source,
        calls=tuple(segment.calls),
        results=tuple(segment.results.items()),
    )
