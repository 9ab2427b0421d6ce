"""The materializations of a flow's assets: reported by the op whose task completes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from metaflow_pipes.runtime.assets.specs import assets_of
from metaflow_pipes.runtime.ids import continued_runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from metaflow_pipes.runtime.flow import MetaflowFlow
    from metaflow_pipes.runtime.report import TaskReport
    from metaflow_pipes.runtime.steps import MetaflowStep


# The tags by which Dagster knows the versions of a materialization (`dagster._core.definitions.data_version`).
CODE_VERSION_TAG = "dagster/code_version"


DATA_VERSION_TAG = "dagster/data_version"


def materialize(context: dg.OpExecutionContext, flow: MetaflowFlow, report: TaskReport) -> None:
    """Report the assets that are complete now that a task of a step is done.

    That is the step's own, unless the step is in a foreach: the steps of a foreach are materialized when the join
    behind it is done.

    Args:
        context: The context of the op that ran the task.
        flow: The flow.
        report: The report of the task.
    """
    step, assets = flow[report.step], assets_of(flow)
    collected = [mapped for mapped in flow.steps if mapped.collected_by == step.name and mapped.name in assets]
    if collected:
        durations = _Durations(context, flow)
        run = report.pathspec.rsplit("/", 2)[0]
        for mapped in collected:
            metadata = durations.metadata(mapped)
            if metadata is not None:
                about = _about_step(f"{run}/{mapped.name}")
                context.log_event(_materialization(assets[mapped.name], {**metadata, **about}))
    if step.name in assets and step.collected_by is None:
        spec = assets[step.name]
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
