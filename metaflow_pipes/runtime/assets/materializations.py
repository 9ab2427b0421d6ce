"""The materializations of a flow's assets: reported by the op whose task completes them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import dagster as dg

from metaflow_pipes.io.materialized import latest_record
from metaflow_pipes.names import ASSET_OUTPUT, BACKFILL_TAG, PARTITION_TAG
from metaflow_pipes.runtime.assets.mapped import done_tasks
from metaflow_pipes.runtime.assets.run_partition import partition_keys_of
from metaflow_pipes.runtime.assets.specs import assets_of
from metaflow_pipes.runtime.ids import new_run_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from metaflow_pipes.runtime.flow import MetaflowFlow
    from metaflow_pipes.runtime.report import TaskReport
    from metaflow_pipes.runtime.steps import MetaflowStep


# The tags by which Dagster knows the versions of a materialization, and of those that it was made of
# (`dagster._core.definitions.data_version`).
CODE_VERSION_TAG = "dagster/code_version"
DATA_VERSION_TAG = "dagster/data_version"
USER_PROVIDED_TAG = "dagster/data_version_is_user_provided"
INPUT_VERSION_TAG = "dagster/input_data_version"
INPUT_POINTER_TAG = "dagster/input_event_pointer"
# Each task would show Dagster's warning that this argument is in beta.
warnings.filterwarnings("ignore", r"Parameter `data_version` of initializer `Output\.__init__`", dg.BetaWarning)
# What Dagster takes for the data version of an asset that has none, and for the event of one never materialized.
NO_DATA_VERSION = "INITIAL"
NO_EVENT = "NULL"


def materialize(context: dg.OpExecutionContext, flow: MetaflowFlow, report: TaskReport) -> list[dg.Output[str]]:
    """Materialize the asset of a step whose task is done.

    In a run of the job, that is an event of the event log. In a run of assets, Dagster makes the event of an output.
    In files of formats 1 and 2, the join behind a foreach reports the assets of the steps in it, too.

    Args:
        context: The context of the op that ran the task.
        flow: The flow.
        report: The report of the task.

    Returns:
        The output that stands for the asset, in a run of assets; else none.
    """
    step = flow[report.step]
    if ASSET_OUTPUT not in context.op_def.output_dict:
        for mapped in flow.steps:
            if mapped.collected_by == step.name and mapped.materialized_by is None:
                _materialize(context, flow, mapped, mapped_metadata(context, flow, mapped))
        if step.collected_by is not None:
            return []
    return _materialize(context, flow, step, report.output_metadata(), report.data_version)


def mapped_metadata(
    context: dg.OpExecutionContext, flow: MetaflowFlow, step: MetaflowStep
) -> dict[str, dg.MetadataValue] | None:
    """The metadata of a step in a foreach: how many tasks it had, and how long they took; None if no task ran.

    Args:
        context: The context of an op of the run, behind the step's.
        flow: The flow.
        step: The step.
    """
    durations = [task.seconds for task in done_tasks(context, flow, step).values()]
    if not durations:
        return None
    pathspec = f"{flow.name}/{new_run_id(context)}/{step.name}"
    code = f'from metaflow import Step, namespace\n\nnamespace(None)\n[task.data for task in Step("{pathspec}")]'
    return {
        "items" if step.is_recursive else "tasks": dg.MetadataValue.int(len(durations)),
        "total_duration_seconds": dg.MetadataValue.float(round(sum(durations), 3)),
        "longest_duration_seconds": dg.MetadataValue.float(round(max(durations), 3)),
        "pathspec": dg.MetadataValue.text(pathspec),
        "retrieve": dg.MetadataValue.md(f"```python\n{code}\n```"),
    }


def materialize_mapped(context: dg.OpExecutionContext, flow: MetaflowFlow, step: str) -> list[dg.Output[str]]:
    """Materialize the asset of a step in a foreach, all of whose tasks are done.

    Args:
        context: The context of the op that collects them.
        flow: The flow.
        step: The step's name.

    Returns:
        As `materialize`.
    """
    return _materialize(context, flow, flow[step], mapped_metadata(context, flow, flow[step]))


def _materialize(
    context: dg.OpExecutionContext,
    flow: MetaflowFlow,
    step: MetaflowStep,
    metadata: Mapping[str, dg.MetadataValue] | None,
    data_version: str | None = None,
) -> list[dg.Output[str]]:
    spec = assets_of(flow).get(step.name)
    if spec is None or metadata is None:
        return []
    metadata = {**metadata, **flow.store.as_metadata()}
    if not context.has_assets_def:
        for partition in partition_keys_of(context, flow) or [None]:
            context.log_event(
                dg.AssetMaterialization(
                    asset_key=spec.key,
                    metadata=metadata,
                    partition=partition,
                    tags={
                        **_versions(context, flow, spec, partition, data_version),
                        **_partition_tags(context, partition),
                    },
                )
            )
        return []
    pathspec = metadata["pathspec"]
    assert isinstance(pathspec, dg.TextMetadataValue)
    version = None if data_version is None else dg.DataVersion(data_version)
    output = dg.Output(pathspec.text or "", ASSET_OUTPUT, metadata=metadata, data_version=version)
    if ASSET_OUTPUT in context.selected_output_names:
        return [output]
    # of a step that is cloned because it is not selected, nothing is materialized
    _warn_of_newer(context, spec, data_version)
    return []


def _warn_of_newer(context: dg.OpExecutionContext, spec: dg.AssetSpec, data_version: str | None) -> None:
    """Warn if the asset of a cloned step is newer than the clone.

    All clones of a run come from one earlier run. A later one may have done this step, and not all the others.
    """
    partition = context.partition_key if context.has_partition_key else None
    record = latest_record(context.instance, spec.key, partition)
    latest = _data_version_of(record)
    if record is not None and None not in (latest, data_version) and latest != data_version:
        context.log.warning(
            f"Asset {spec.key.to_user_string()} has been materialized with other data since: by Dagster run "
            f"{record.run_id}, in which not all steps before the selected ones are done. What follows here is made "
            "of the older data. To have it made of the newer, select the steps between, too, or materialize all."
        )


def _data_version_of(record: dg.EventLogRecord | None) -> str | None:
    """The data version of a materialization; None if it has none, or there is none."""
    event = None if record is None else record.asset_materialization
    return None if event is None or event.tags is None else event.tags.get(DATA_VERSION_TAG)


def _partition_tags(context: dg.OpExecutionContext, partition: str | None) -> dict[str, str]:
    """The tags of a partition's materialization: the key of each dimension, and the backfill that it is a part of."""
    tags = {}
    if isinstance(partition, dg.MultiPartitionKey):
        tags = {f"{PARTITION_TAG}/{name}": key for name, key in partition.keys_by_dimension.items()}
    backfill = context.run.tags.get(BACKFILL_TAG)
    return tags if backfill is None else {**tags, BACKFILL_TAG: backfill}


def _versions(
    context: dg.OpExecutionContext,
    flow: MetaflowFlow,
    spec: dg.AssetSpec,
    partition: str | None,
    data_version: str | None,
) -> dict[str, str]:
    """The tags that say of which code and data a materialization was made: as Dagster's own of an asset's output."""
    tags: dict[str, str | None] = {CODE_VERSION_TAG: spec.code_version, DATA_VERSION_TAG: data_version}
    if data_version is not None:
        tags[USER_PROVIDED_TAG] = "true"
    own = {other.key for other in assets_of(flow).values()}
    for dep in spec.deps:
        record = latest_record(context.instance, dep.asset_key, partition if dep.asset_key in own else None)
        key = dep.asset_key.to_user_string()
        tags[f"{INPUT_VERSION_TAG}/{key}"] = _data_version_of(record) or NO_DATA_VERSION
        tags[f"{INPUT_POINTER_TAG}/{key}"] = NO_EVENT if record is None else str(record.storage_id)
    return {tag: version for tag, version in tags.items() if version is not None}


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
