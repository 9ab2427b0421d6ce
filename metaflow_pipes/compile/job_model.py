"""A Dagster job as plain data: what lowering makes of a flow and its options, and what rendering writes.

It holds no object of Metaflow's or Dagster's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from metaflow_pipes.compile.flow_model import FlowModel, StepModel
    from metaflow_pipes.compile.job_options import JobOptions


@dataclass(frozen=True)
class DimensionModel:
    """One dimension of the partitions of a flow.

    Attributes:
        parameter: The parameter that its keys fill.
        kind: `hourly`, `daily`, `weekly`, `monthly`, `cron`, `static` or `dynamic`.
        definition: The Dagster class of its partitions.
        arguments: The named arguments of that.
        keys: The keys of static partitions; else none.
        start: The first key of partitions of time, or None.
    """

    parameter: str
    kind: str
    definition: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    start: str | None = None


@dataclass(frozen=True)
class PartitionsModel:
    """The partitions of a flow's job and assets.

    Attributes:
        dimensions: One or two, in the order of Dagster's keys: by the names of their parameters.
        format: The form in which parameters get the keys of time, as `strftime` takes it; None for the key itself.
        range_end: The parameter that gets the last key of a run of several partitions, or None.
    """

    dimensions: tuple[DimensionModel, ...]
    format: str | None = None
    range_end: str | None = None

    @property
    def filled(self) -> tuple[str, ...]:
        """The parameters that a key fills."""
        ends = () if self.range_end is None else (self.range_end,)
        return (*(dimension.parameter for dimension in self.dimensions), *ends)


@dataclass(frozen=True)
class ImportModel:
    """Something of the user's that the generated file imports: `from module import attribute as alias`."""

    module: str
    attribute: str
    alias: str


@dataclass(frozen=True)
class ExecutorModel:
    """The job's executor.

    Attributes:
        expression: The expression that makes it.
        imported: What that needs of the user's, or None.
        launches_pods: Whether it launches each op in a Kubernetes pod.
        config: The defaults of its config.
    """

    expression: str
    imported: ImportModel | None = None
    launches_pods: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reference:
    """The output of an op, as another one takes it.

    Attributes:
        variable: The variable that holds the op's outputs in the job's body.
        output: The name of the output if the op has several.
        is_collected: Whether it is taken for all items of a foreach at once.
    """

    variable: str
    output: str | None = None
    is_collected: bool = False


@dataclass(frozen=True)
class OpModel:
    """A Dagster op that runs the tasks of one Metaflow step.

    Attributes:
        step: The Metaflow step.
        name: The op's name in the job: what step keys and the run config call it.
        definition: The name of its definition, which is the only one in a code location.
        function: The name of the op's function in the generated file.
        inputs: The names of its inputs; none for the start step.
        takes_list: Whether its one input is a list.
        emits_items: Whether it has a dynamic output, one for each item of its foreach.
        switch: For each step that it can go on to, the name of the output; empty if it has one output.
        is_routed: Whether its one output says where its task goes on.
        collected_by: The join that ends the outermost foreach around the step, or None.
        items_of: The foreach step whose items it takes, if it takes all of them; else None.
        max_retries: Dagster retries of the op.
        tags: The op's tags.
        pool: The pool that the user gives the step, or None.
        materialized_by: The helper op that materializes the step's asset, or None if its own does.
        depends_on: The assets of others that the step's asset depends on, beside those of the flow.
    """

    step: StepModel
    name: str
    definition: str
    function: str
    inputs: tuple[str, ...]
    takes_list: bool
    emits_items: bool
    switch: Mapping[str, str]
    is_routed: bool
    collected_by: str | None
    items_of: str | None
    max_retries: int
    tags: Mapping[str, Any] = field(default_factory=dict)
    pool: str | None = None
    materialized_by: str | None = None
    depends_on: tuple[str, ...] = ()


@dataclass(frozen=True)
class HelperModel:
    """A Dagster op that runs no task, and brings the outputs of others into another order.

    Attributes:
        name: The op's name in the job, and its variable in the generated file.
        factory: The function of `metaflow_pipes.runtime` that makes it.
        depth: For `regroup`, how many indices its items have.
        outputs: For `route`, the output's name for each step that the switch can go on to.
        step: For `collect`, the step whose tasks it collects.
    """

    name: str
    factory: Literal["collect", "fan_out", "gather", "regroup", "route"]
    depth: int | None = None
    outputs: Mapping[str, str] = field(default_factory=dict)
    step: str | None = None


@dataclass(frozen=True)
class Call:
    """A statement of the job's body: an op is applied to outputs of others.

    Attributes:
        variable: The variable for its outputs.
        function: The op's function or helper.
        op: The op's name in the job.
        arguments: What it takes; a tuple of references is a list.
    """

    variable: str
    function: str
    op: str
    arguments: tuple[Reference | tuple[Reference, ...], ...]


@dataclass(frozen=True)
class Body:
    """A statement of the job's body: the calls for each item of one dynamic output.

    Attributes:
        function: The name of the local function that makes the calls for one item.
        item: The name of its parameter.
        source: The dynamic output.
        calls: The calls, each after those whose outputs it takes.
        results: The outputs that are needed outside, each with the variable that holds it there.
    """

    function: str
    item: str
    source: Reference
    calls: tuple[Call, ...]
    results: tuple[tuple[Reference, str], ...]


@dataclass(frozen=True)
class AutomationModel:
    """A Dagster schedule or sensor beside the job: one call in the `Definitions` of the generated file.

    Attributes:
        name: Its name in Dagster.
        factory: The function of `metaflow_pipes.runtime` that makes it of the flow, the job, and `arguments`.
        arguments: The keyword arguments: strings, numbers, booleans, None, and lists, tuples and mappings of them.
        summary: When it starts the flow, or what it does after a run: a sentence without its full stop.
    """

    name: str
    factory: str
    arguments: Mapping[str, Any]
    summary: str


@dataclass(frozen=True)
class JobModel:
    """A Dagster job, ready to be written.

    Attributes:
        name: The job's name in Dagster.
        function: The job's variable in the generated file.
        flow: The flow that it runs.
        options: What the user asked for.
        ops: The ops of the steps, each after those whose outputs it takes.
        helpers: The other ops.
        statements: The job's body.
        executor: The job's executor.
        kubernetes: Where a step with `@kubernetes` runs: in the `pod` of its op, or in a `job` of Metaflow's.
        translator: The user's translator, or None for the default one.
        partitions: The partitions of the job and the assets, or None.
        tags: The job's tags.
        schedules: The schedules that start it.
        sensors: The sensors that start it, or that act when a run of it has ended.
        warnings: What the user should know before the file is used, each a sentence.
        depends_on: The assets of others that the flow's first assets depend on.
        condition: The expression of the automation condition of the flow's assets, or None.
    """

    name: str
    function: str
    flow: FlowModel
    options: JobOptions
    ops: tuple[OpModel, ...]
    helpers: tuple[HelperModel, ...]
    statements: tuple[Call | Body, ...]
    executor: ExecutorModel
    kubernetes: str
    translator: ImportModel | None
    partitions: PartitionsModel | None
    tags: Mapping[str, str]
    schedules: tuple[AutomationModel, ...]
    sensors: tuple[AutomationModel, ...]
    warnings: tuple[str, ...]
    depends_on: tuple[str, ...] = ()
    condition: str | None = None

    def steps_by_launcher(self) -> dict[str, list[str]]:
        """For each decorator that has steps launched in another way, the names of these steps."""
        found: dict[str, list[str]] = {}
        for step in self.flow.steps:
            for launcher in step.launchers:
                found.setdefault(launcher, []).append(step.name)
        return found

    @property
    def automation(self) -> tuple[AutomationModel, ...]:
        """The schedules and sensors: what needs a Dagster daemon."""
        return (*self.schedules, *self.sensors)
