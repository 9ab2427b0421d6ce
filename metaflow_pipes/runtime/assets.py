"""The Dagster assets of a flow: one for each step, materialized by the runs of its job."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg

from metaflow_pipes.runtime.ids import continued_runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from metaflow_pipes.runtime.flow import MetaflowFlow
    from metaflow_pipes.runtime.report import TaskReport

# The tags by which Dagster knows the versions of a materialization (`dagster._core.definitions.data_version`).
CODE_VERSION_TAG = "dagster/code_version"
DATA_VERSION_TAG = "dagster/data_version"


@dataclass(frozen=True)
class MetaflowStep:
    """A step of a flow, as the compiler wrote it down.

    Attributes:
        name: The step's name.
        upstream: The steps whose tasks it takes, itself among them if it is recursive.
        op: The name of its op, if that is not the step's own.
        collected_by: The join that ends the outermost foreach around it, or None if there is none around it.
        description: The docstring.
        code_version: A digest of its source.
    """

    name: str
    upstream: Sequence[str] = ()
    op: str | None = None
    collected_by: str | None = None
    description: str | None = None
    code_version: str | None = None

    @property
    def op_name(self) -> str:
        """The name of its op."""
        return self.op or self.name

    @property
    def is_recursive(self) -> bool:
        """Whether it can go on to itself."""
        return self.name in self.upstream


class DagsterMetaflowTranslator:
    """Says how the steps of a flow become Dagster assets.

    Override a method to change what it says, and give the class to the compiler by its import path:
    `python flow.py dagster create --translator package.module:ShopTranslator`. It is made without arguments, when
    Dagster loads the definitions file.

    Example:
        ```python
        from metaflow_pipes.runtime import DagsterMetaflowTranslator

        class ShopTranslator(DagsterMetaflowTranslator):
            def get_owners(self, flow, step):
                return ["team:shop"]

            def includes(self, flow, step):
                return step.name not in ("start", "end")
        ```
    """

    def includes(self, flow: MetaflowFlow, step: MetaflowStep) -> bool:  # noqa: ARG002
        """Whether the step has an asset. What depends on a step without one depends on what that depends on."""
        return True

    def get_asset_key(self, flow: MetaflowFlow, step: MetaflowStep) -> dg.AssetKey:
        """The key of the step's asset: `[flow, step]`; with `@project`, `[project.branch.flow, step]`."""
        return dg.AssetKey([flow.deployment_name, step.name])

    def get_group_name(self, flow: MetaflowFlow, step: MetaflowStep) -> str | None:  # noqa: ARG002
        """The asset's group: the flow."""
        return re.sub(r"[^A-Za-z0-9_]", "_", flow.deployment_name)

    def get_description(self, flow: MetaflowFlow, step: MetaflowStep) -> str | None:  # noqa: ARG002
        """The asset's description: the step's docstring."""
        return step.description

    def get_code_version(self, flow: MetaflowFlow, step: MetaflowStep) -> str | None:  # noqa: ARG002
        """The version of the code that makes the asset: a digest of the step's source."""
        return step.code_version

    def get_kinds(self, flow: MetaflowFlow, step: MetaflowStep) -> AbstractSet[str]:  # noqa: ARG002
        """The kinds by which Dagster shows and filters the asset: `metaflow` and `python`."""
        return {"metaflow", "python"}

    def get_tags(self, flow: MetaflowFlow, step: MetaflowStep) -> Mapping[str, str]:  # noqa: ARG002
        """The asset's tags: none."""
        return {}

    def get_owners(self, flow: MetaflowFlow, step: MetaflowStep) -> Sequence[str]:  # noqa: ARG002
        """The asset's owners, each an email address or `team:name`: none."""
        return []

    def get_metadata(self, flow: MetaflowFlow, step: MetaflowStep) -> Mapping[str, object]:
        """The asset's definition metadata: flow, step and flow file."""
        return {
            "metaflow/flow": flow.name,
            "metaflow/step": step.name,
            "metaflow/file": dg.MetadataValue.path(str(flow.path)),
        }

    def get_asset_spec(self, flow: MetaflowFlow, step: MetaflowStep, upstream: Sequence[dg.AssetKey]) -> dg.AssetSpec:
        """The step's asset, made of what the other methods say.

        Args:
            flow: The flow.
            step: The step.
            upstream: The assets that it depends on.
        """
        return dg.AssetSpec(
            key=self.get_asset_key(flow, step),
            deps=upstream,
            description=self.get_description(flow, step),
            metadata=self.get_metadata(flow, step),
            group_name=self.get_group_name(flow, step),
            code_version=self.get_code_version(flow, step),
            owners=self.get_owners(flow, step),
            tags=self.get_tags(flow, step),
            kinds=set(self.get_kinds(flow, step)),
        )


def asset_specs(
    flow: MetaflowFlow, steps: Sequence[MetaflowStep], translator: DagsterMetaflowTranslator
) -> dict[str, dg.AssetSpec]:
    """The assets of the steps that have one, by the steps' names.

    Args:
        flow: The flow.
        steps: Its steps, each after those that it takes the tasks of.
        translator: Says how steps become assets.
    """
    specs: dict[str, dg.AssetSpec] = {}
    # for each step the assets that a step behind it depends on: its own, or those before it if it has none
    reached: dict[str, list[dg.AssetKey]] = {}
    for step in steps:
        upstream = list(dict.fromkeys(key for name in step.upstream if name != step.name for key in reached[name]))
        if translator.includes(flow, step):
            specs[step.name] = translator.get_asset_spec(flow, step, upstream)
        reached[step.name] = [specs[step.name].key] if step.name in specs else upstream
    return specs


def materialize(context: dg.OpExecutionContext, flow: MetaflowFlow, report: TaskReport) -> None:
    """Report the assets that are complete now that a task of a step is done.

    That is the step's own, unless the step is in a foreach: the steps of a foreach are materialized when the join
    behind it is done.

    Args:
        context: The context of the op that ran the task.
        flow: The flow.
        report: The report of the task.
    """
    step = flow[report.step]
    collected = [mapped for mapped in flow.steps if mapped.collected_by == step.name and mapped.name in flow.assets]
    if collected:
        durations = _Durations(context, flow)
        run = report.pathspec.rsplit("/", 2)[0]
        for mapped in collected:
            metadata = durations.metadata(mapped)
            if metadata is not None:
                about = _about_step(f"{run}/{mapped.name}")
                context.log_event(_materialization(flow.assets[mapped.name], {**metadata, **about}))
    if step.name in flow.assets and step.collected_by is None:
        spec = flow.assets[step.name]
        context.log_event(_materialization(spec, report.output_metadata(), report.data_version))


def _about_step(pathspec: str) -> dict[str, dg.MetadataValue]:
    code = f'from metaflow import Step, namespace\n\nnamespace(None)\n[task.data for task in Step("{pathspec}")]'
    return {"pathspec": dg.MetadataValue.text(pathspec), "retrieve": dg.MetadataValue.md(f"```python\n{code}\n```")}


def _materialization(
    spec: dg.AssetSpec, metadata: Mapping[str, object], data_version: str | None = None
) -> dg.AssetMaterialization:
    versions = {CODE_VERSION_TAG: spec.code_version, DATA_VERSION_TAG: data_version}
    return dg.AssetMaterialization(
        asset_key=spec.key,
        metadata=metadata,  # pyright: ignore[reportArgumentType]
        tags={tag: version for tag, version in versions.items() if version is not None},
    )


def passed_on(results: Iterable[object], own_key: dg.AssetKey) -> Iterator[dg.AssetMaterialization]:
    """The materializations that a step's own code has reported through Pipes, of assets other than the step's.

    Args:
        results: What came through Pipes.
        own_key: The key of the step's own report.
    """
    for result in results:
        if isinstance(result, dg.MaterializeResult) and result.asset_key not in (None, own_key):
            tags = {DATA_VERSION_TAG: result.data_version.value} if result.data_version is not None else {}
            yield dg.AssetMaterialization(asset_key=result.asset_key, metadata=result.metadata, tags=tags)


class _Durations:
    """How long the tasks of mapped steps took, by Dagster's records of the run and of those that it goes on with."""

    def __init__(self, context: dg.OpExecutionContext, flow: MetaflowFlow):
        self._flow = flow
        self._runs = [
            {stats.step_key: stats for stats in context.instance.get_run_step_stats(run.run_id)}
            for run in [context.run, *continued_runs(context)]
        ]

    def metadata(self, step: MetaflowStep) -> dict[str, dg.MetadataValue] | None:
        """The number of a mapped step's tasks, and their total and longest duration; None if no task ran."""
        durations: dict[str, float] = {}
        splits = self._splits(step)
        for run in self._runs:
            for key, stats in run.items():
                if key.startswith(f"{step.op_name}[") and stats.start_time and stats.end_time and _is_done(stats):
                    durations.setdefault(key, stats.end_time - stats.start_time)
            if any(_is_done(run.get(split)) for split in splits):
                break  # runs before this one had other items
        if not durations:
            return None
        return {
            "items" if step.is_recursive else "tasks": dg.MetadataValue.int(len(durations)),
            "total_duration_seconds": dg.MetadataValue.float(round(sum(durations.values()), 3)),
            "longest_duration_seconds": dg.MetadataValue.float(round(max(durations.values()), 3)),
        }

    def _splits(self, step: MetaflowStep) -> set[str]:
        """The ops of the steps that split into the outermost foreach around a step."""
        steps = {other.name: other for other in self._flow.steps}
        found: set[str] = set()
        seen: set[str] = set()
        queue = list(step.upstream)
        while queue:
            other = steps[queue.pop()]
            if other.collected_by is None:
                found.add(other.op_name)
            elif other.name not in seen:
                seen.add(other.name)
                queue += other.upstream
        return found


def _is_done(stats: object) -> bool:
    status = getattr(stats, "status", None)
    return status is not None and status.value == "SUCCESS"
