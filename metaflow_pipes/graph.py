"""The heart of lowering: how the tasks of a flow's steps become Dagster outputs that are mapped and collected.

Every step lies in a region: the foreach steps around it. Outside of all of them a step is one task, and its op is
called once. Inside, it is one task for each item, and its op is mapped over a *dynamic output*, whose mapping
keys are the item's indices (`2`, or `2_0` in a foreach within a foreach).

The steps that are mapped over one dynamic output form a *segment*. A step joins the segment of the step before
it. It starts a segment of its own where that can't be:

- it is the first step of a foreach: the items come from the foreach step, directly or, in a foreach within a
  foreach, through a `fan_out` helper, since Dagster maps no dynamic output within another;
- it leaves an inner region, and stays in an outer one;
- it merges the branches of a switch, or joins branches that are not all there for the same items.

In the last two cases everything that it takes is collected, and a `regroup` helper emits it anew, an item each for
the tasks that belong together. Shapes then combine freely.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from metaflow_pipes.model import Body, Call, HelperModel, Reference

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from metaflow_pipes.model import StepModel

# The input of an op that takes one task, or all tasks as a list.
UPSTREAM = "upstream"


@dataclass(frozen=True)
class _Place:
    """Where a step's output is: its segment, and which way its items have taken at the switches of that segment."""

    segment: _Segment | None
    choices: frozenset[tuple[str, str]] = frozenset()


@dataclass(eq=False)
class _Segment:
    """The steps that are mapped over one dynamic output."""

    name: str
    source: Reference
    calls: list[Call] = field(default_factory=list)
    results: dict[Reference, str] = field(default_factory=dict)

    def exported(self, reference: Reference) -> Reference:
        """An output of the segment as it is taken outside: collected over all items."""
        name = reference.variable if reference.output is None else f"{reference.variable}_{reference.output}"
        if reference not in self.results:
            variable = f"all_{name}"
            while variable in self.results.values():
                variable += "_"
            self.results[reference] = variable
        return Reference(self.results[reference], is_collected=True)


@dataclass(frozen=True)
class Wiring:
    """What `wire` finds out: the inputs of each step's op, the helpers, and the job's body."""

    inputs: Mapping[str, tuple[str, ...]]
    list_steps: frozenset[str]
    helpers: tuple[HelperModel, ...]
    statements: tuple[Call | Body, ...]


def wire(steps: Iterable[StepModel], outputs: Mapping[str, Mapping[str, str]], op_names: Mapping[str, str]) -> Wiring:
    """Connect the ops of a flow's steps.

    Args:
        steps: The steps, each after those whose tasks it takes.
        outputs: For each step that is a switch with several exits, the output's name for each of them.
        op_names: The name of each step's op.
    """
    wiring = _Wiring({step.name: step for step in steps}, outputs, op_names)
    for step in wiring.steps.values():
        wiring.add(step)
    return wiring.result()


class _Wiring:
    def __init__(
        self, steps: Mapping[str, StepModel], outputs: Mapping[str, Mapping[str, str]], op_names: Mapping[str, str]
    ):
        self.steps = steps
        self._outputs = outputs
        self._op_names = op_names
        self._taken = set(op_names.values())
        self._places: dict[str, _Place] = {}
        self._inputs: dict[str, tuple[str, ...]] = {}
        self._list_steps: set[str] = set()
        self._helpers: list[HelperModel] = []
        self._statements: list[Call | _Segment] = []

    def add(self, step: StepModel) -> None:
        """Connect a step to those before it."""
        if not step.region:
            self._call_once(step)
        elif self._starts_foreach(step):
            self._start_segment(step, self._items(step))
        elif (place := self._shared_place(step)) is not None:
            self._call_in_segment(step, place)
        else:
            regrouped = self._helper(step, "regroup", self._collected_lists(step), depth=len(step.region))
            self._start_segment(step, regrouped)

    def result(self) -> Wiring:
        """What has been found out."""
        statements: list[Call | Body] = []
        for statement in self._statements:
            statements.append(statement if isinstance(statement, Call) else _body(statement))
        return Wiring(self._inputs, frozenset(self._list_steps), tuple(self._helpers), tuple(statements))

    # outside of every foreach

    def _call_once(self, step: StepModel) -> None:
        if step.is_join or len(step.in_steps) > 1:
            self._list_steps.add(step.name)
            arguments: tuple[Reference | tuple[Reference, ...], ...] = (self._all_inputs(step),)
        else:
            arguments = tuple(self._reference(in_step, step) for in_step in step.in_steps)
        self._inputs[step.name] = (UPSTREAM,) if arguments else ()
        self._places[step.name] = _Place(None)
        self._statements.append(self._call(step, arguments))

    def _all_inputs(self, step: StepModel) -> tuple[Reference, ...]:
        """All that a step takes, as a list. Dagster collects just one dynamic output into a list by itself."""
        if len(step.in_steps) == 1:
            return (self._collected(step.in_steps[0], step),)
        return self._collected_lists(step)

    # inside

    def _starts_foreach(self, step: StepModel) -> bool:
        return len(step.in_steps) == 1 and self.steps[step.in_steps[0]].kind == "foreach"

    def _items(self, step: StepModel) -> Reference:
        """The dynamic output with the items of the foreach that a step begins."""
        foreach = step.in_steps[0]
        if not self.steps[foreach].region:
            return self._reference(foreach, step)
        return self._helper(self.steps[foreach], "fan_out", (self._collected(foreach, step),))

    def _shared_place(self, step: StepModel) -> _Place | None:
        """Where all inputs of a step are, if they are there for the same items; None if they aren't."""
        if any(self.steps[in_step].region != step.region for in_step in step.in_steps):
            return None
        places = {self._place_towards(in_step, step) for in_step in step.in_steps}
        is_merge = len(step.in_steps) > 1 and not step.is_join
        return None if is_merge or len(places) > 1 else places.pop()

    def _place_towards(self, in_step: str, step: StepModel) -> _Place:
        place = self._places[in_step]
        if in_step not in self._outputs:
            return place
        return _Place(place.segment, place.choices | {(in_step, step.name)})

    def _call_in_segment(self, step: StepModel, place: _Place) -> None:
        assert place.segment is not None
        arguments = tuple(self._reference(in_step, step) for in_step in step.in_steps)
        is_single = len(arguments) == 1
        self._inputs[step.name] = (UPSTREAM,) if is_single else tuple(f"{UPSTREAM}_{name}" for name in step.in_steps)
        self._places[step.name] = place
        place.segment.calls.append(self._call(step, arguments))

    def _start_segment(self, step: StepModel, source: Reference) -> None:
        segment = _Segment(step.name, source)
        self._statements.append(segment)
        self._inputs[step.name] = (UPSTREAM,)
        self._places[step.name] = _Place(segment)
        segment.calls.append(self._call(step, (Reference(_item(step.name)),)))

    def _collected_lists(self, step: StepModel) -> tuple[Reference, ...]:
        """All that a step takes, as one list of outputs that exist once.

        Collected outputs pass through a `gather` helper each: Dagster takes no list of them, and a helper that
        has nothing to gather is skipped.
        """
        references = []
        for in_step in step.in_steps:
            reference = self._collected(in_step, step)
            if reference.is_collected and len(step.in_steps) > 1:
                reference = self._helper(step, "gather", (reference,), suffix=in_step)
            references.append(reference)
        return tuple(references)

    # parts

    def _reference(self, in_step: str, step: StepModel) -> Reference:
        return Reference(f"task_{in_step}", self._outputs.get(in_step, {}).get(step.name))

    def _collected(self, in_step: str, step: StepModel) -> Reference:
        reference, segment = self._reference(in_step, step), self._places[in_step].segment
        return reference if segment is None else segment.exported(reference)

    def _call(self, step: StepModel, arguments: tuple[Reference | tuple[Reference, ...], ...]) -> Call:
        return Call(f"task_{step.name}", f"op_{step.name}", arguments)

    def _helper(
        self,
        step: StepModel,
        factory: str,
        references: tuple[Reference, ...],
        depth: int | None = None,
        suffix: str = "",
    ) -> Reference:
        """Add a helper op that takes references as a list, and return its output."""
        name = "_".join(filter(None, (factory, self._op_names[step.name], self._op_names.get(suffix))))
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        self._helpers.append(HelperModel(name, factory, depth))  # pyright: ignore[reportArgumentType]
        self._statements.append(Call(f"{name}_output", name, (references,)))
        return Reference(f"{name}_output")


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
