"""The materialization that an input of an asset takes: of the same run, of its partition, or the latest one."""

from __future__ import annotations

import dagster as dg

from metaflow_pipes.io.artifacts import TASK_PARTS, Source
from metaflow_pipes.io.store import PATHSPEC, TASKS, ArtifactStore


def source_of(context: dg.InputContext, partition: str | None = None) -> Source | None:
    """The materialization of the asset that an input takes; None if it has not been materialized.

    Args:
        context: The input's context.
        partition: The partition of the asset, or None if that has none.

    Raises:
        dagster.Failure: Something else than the flow's run has materialized it.
    """
    materialization = _of_same_run(context, partition)
    if materialization is None:
        record = latest_record(context.instance, context.asset_key, partition)
        materialization = None if record is None else record.asset_materialization
    if materialization is None:
        return None
    pathspec, store = materialization.metadata.get(PATHSPEC), ArtifactStore.from_metadata(materialization.metadata)
    if not isinstance(pathspec, dg.TextMetadataValue) or not pathspec.text or store is None:
        raise dg.Failure(
            f"The latest materialization of asset {name_of(context, partition)} does not say where its Metaflow task "
            "is stored: it was reported by something else than a run of the flow, or by an earlier version of "
            "metaflow-pipes. Materialize the asset.",
            allow_retries=False,
        )
    # of a step with `num_parallel` it is that of the control task, which has started the others
    is_of_several = TASKS in materialization.metadata
    return Source(_step_of(pathspec.text) if is_of_several else pathspec.text, store)


def _step_of(pathspec: str) -> str:
    return "/".join(pathspec.split("/")[: TASK_PARTS - 1])


def name_of(context: dg.InputContext, partition: str | None) -> str:
    """The asset that an input takes, for messages."""
    key = context.asset_key.to_user_string()
    return key if partition is None else f"{key}, partition {partition},"


def _of_same_run(context: dg.InputContext, partition: str | None) -> dg.AssetMaterialization | None:
    """The materialization by a step of this run, or of the run that it re-executes, whose output the input takes."""
    upstream = context.upstream_output
    try:
        run_id = None if upstream is None else upstream.run_id
    except dg.DagsterInvariantViolationError:
        return None  # no step of the run has made it
    if run_id is None:
        return None
    records = context.instance.get_records_for_run(
        run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION, ascending=False
    ).records
    for record in records:
        found = record.event_log_entry.asset_materialization
        if found is not None and found.asset_key == context.asset_key and partition in (None, found.partition):
            return found
    return None


def latest_record(
    instance: dg.DagsterInstance, key: dg.AssetKey, partition: str | None = None
) -> dg.EventLogRecord | None:
    """The latest materialization of an asset; None if it has not been materialized.

    Args:
        instance: The Dagster instance.
        key: The asset.
        partition: One of its partitions, or None for any.
    """
    partitions = None if partition is None else [partition]
    records = dg.AssetRecordsFilter(key, asset_partitions=partitions)
    return next(iter(instance.fetch_materializations(records, limit=1).records), None)
