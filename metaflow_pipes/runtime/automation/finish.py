"""The event of a finished run: published by the op of the flow's last step, once for each Metaflow run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from metaflow_pipes.runtime.assets.events import (
    DAGSTER_RUN_FIELD,
    PARTITION_FIELD,
    event_key,
    event_materialization,
    payload_of,
)
from metaflow_pipes.runtime.assets.run_partition import partition_of
from metaflow_pipes.runtime.ids import continued_runs
from step_wrapper import wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metaflow_pipes.runtime.flow import MetaflowFlow
    from metaflow_pipes.runtime.report import TaskReport

# The last step under which `@trigger_on_finish` waits for a flow, whatever that calls it.
END = "end"
PAGE = 200


def publish_finish(context: dg.OpExecutionContext, flow: MetaflowFlow, report: TaskReport) -> None:
    """Publish that a run has finished, if the task that is done is its last one.

    A clone of another run's last task is none of this run's work, and an end that is done again is no other end. The
    event is none of the run's own events, which tell of the assets that it has made.

    Args:
        context: The context of the op that ran the task.
        flow: The flow.
        report: The report of the task.
    """
    if report.step != flow.steps[-1].name or report.cloned_from is not None:
        return
    names = finish_events(flow)
    partition = partition_of(context, flow)
    of_partition = {} if partition is None else {PARTITION_FIELD: str(partition)}
    if _is_published(context, names[0], report):
        return
    for name in names:
        payload = wire.stamped(name, {**dict(_payload(flow, report)), **of_partition})
        event = event_materialization(
            name, {**payload, DAGSTER_RUN_FIELD: dg.MetadataValue.dagster_run(context.run_id)}
        )
        context.instance.report_runless_asset_event(event)


def finish_events(flow: MetaflowFlow) -> list[str]:
    """The names of the events of a run's end: by the last step's name, and by `end` if it has another."""
    of_flow = f"metaflow.{flow.deployment or flow.name}"
    return list(dict.fromkeys([f"{of_flow}.{flow.steps[-1].name}", f"{of_flow}.{END}"]))


def _payload(flow: MetaflowFlow, report: TaskReport) -> Iterator[tuple[str, Any]]:
    """The fields that Metaflow's own event has (`metaflow.plugins.argo.argo_workflows_decorator`)."""
    flow_name, run_id, step, task_id = report.pathspec.split("/")
    yield "id", report.pathspec
    yield "pathspec", report.pathspec
    yield "flow_name", flow_name
    yield "run_id", run_id
    yield "step_name", step
    yield "task_id", task_id
    if flow.deployment:
        project, *branch, _ = flow.deployment.split(".")
        yield "project_name", project
        yield "branch_name", ".".join(branch)
        yield "is_user_branch", branch[:1] == ["user"]
        yield "is_production", branch[:1] == ["prod"]
        yield "project_flow_name", flow.deployment
    yield "auto-generated-by-metaflow", True


def _is_published(context: dg.OpExecutionContext, name: str, report: TaskReport) -> bool:
    """Whether an earlier attempt, or a Dagster run that this one goes on with, has published the Metaflow run's end."""
    runs = continued_runs(context)
    if not runs and not context.retry_number:
        return False
    first = context.instance.get_run_record_by_id([context.run, *runs][-1].run_id)
    since = None if first is None else first.create_timestamp.timestamp()
    records = dg.AssetRecordsFilter(event_key(name), after_timestamp=since)
    cursor = None
    while True:
        page = context.instance.fetch_materializations(records, limit=PAGE, cursor=cursor)
        for record in page.records:
            event = record.asset_materialization
            if event is not None and payload_of(event).get("run_id") == report.pathspec.split("/")[1]:
                return True
        if not page.has_more:
            return False
        cursor = page.cursor
