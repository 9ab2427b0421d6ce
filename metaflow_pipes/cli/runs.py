"""The commands for runs that there are: `status`, `list-runs` and `terminate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metaflow._vendor import click

from metaflow_pipes.cli.command import Command, DagsterException, url_option
from metaflow_pipes.cli.terminal import local_time, new_console

if TYPE_CHECKING:
    from metaflow_pipes.runs.service import RunRecord


@click.command(cls=Command, help="Show how far a run is.")
@click.argument("run")
@url_option
@click.pass_obj
def status(obj: Any, run: str, url: str | None) -> None:
    """Show how far a run is."""
    from metaflow_pipes.runs.connect import connect
    from metaflow_pipes.runs.partitions import partition_in
    from metaflow_pipes.runs.progress import Progress, duration
    from metaflow_pipes.runs.service import find_run

    service = connect(url)
    found = find_run(service, obj.flow.name, run)
    progress = Progress(_steps_of_run(obj, found), of_assets=found.of_assets)
    progress.take(service.events(found.dagster_run_id, None)[0])
    if found.is_over:
        progress.finish()
        found = progress.outcome_of(found)
    console = new_console()
    lines = [
        ("Status", found.status.value),
        ("What is known", found.loss),
        ("Metaflow run", found.pathspec),
        ("Dagster run", found.dagster_run_id),
        ("Partition", partition_in(found.tags)),
        ("Dagster UI", service.url(found.dagster_run_id)),
        ("Started", local_time(found.started_at)),
        ("Duration", None if found.duration_seconds is None else duration(found.duration_seconds)),
    ]
    for title, value in lines:
        if value:
            console.print(f"{title + ':':14} {value}", highlight=False, markup=False, soft_wrap=True)
    console.print(progress)
    for step, reason in progress.failures:
        console.print(f"{step}: {reason}", highlight=False, markup=False, soft_wrap=True)


@click.command(cls=Command, name="list-runs", help="List the flow's runs, the latest first.")
@click.option("--last", type=int, default=20, show_default=True, help="How many runs, at most.")
@click.option("--successful", is_flag=True, help="Only runs that succeeded.")
@click.option("--failed", is_flag=True, help="Only runs that failed or were terminated.")
@click.option("--running", is_flag=True, help="Only runs that have not ended.")
@url_option
@click.pass_obj
def list_runs(obj: Any, last: int, successful: bool, failed: bool, running: bool, url: str | None) -> None:
    """List the flow's runs."""
    from rich.table import Table

    from metaflow_pipes.names import USER_TAG
    from metaflow_pipes.runs.connect import connect
    from metaflow_pipes.runs.partitions import partition_in
    from metaflow_pipes.runs.progress import duration
    from metaflow_pipes.runs.service import RunStatus, runs_of_flow

    statuses = [
        *([RunStatus.SUCCEEDED] if successful else []),
        *([RunStatus.FAILED, RunStatus.TERMINATED] if failed else []),
        *([RunStatus.PENDING, RunStatus.RUNNING] if running else []),
    ]
    if last < 1:
        raise DagsterException(f"--last is {last}, but at least one run has to be asked for.")
    service = connect(url)
    runs = runs_of_flow(service, obj.flow.name, statuses=statuses, limit=last)
    if not runs:
        obj.echo_always(f"Flow {obj.flow.name} has no such run on {service}.", no_bold=True, highlight=None)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    has_partitions = any(partition_in(run.tags) for run in runs)
    for title in ("RUN", "STATUS", "CREATED", "DURATION", "USER", "JOB", *(["PARTITION"] if has_partitions else [])):
        table.add_column(title, no_wrap=True)
    for run in runs:
        seconds = run.duration_seconds
        table.add_row(
            run.metaflow_run_id,
            run.status.value,
            local_time(run.created_at),
            "" if seconds is None else duration(seconds),
            run.tags.get(USER_TAG, ""),
            f"{run.of_assets} (assets)" if run.of_assets else run.job_name,
            *([partition_in(run.tags)] if has_partitions else []),
        )
    new_console().print(table, highlight=False)


@click.command(cls=Command, help="End a run.")
@click.argument("run")
@url_option
@click.pass_obj
def terminate(obj: Any, run: str, url: str | None) -> None:
    """End a run."""
    from metaflow_pipes.runs.connect import connect
    from metaflow_pipes.runs.service import end_run, find_run

    service = connect(url)
    found = find_run(service, obj.flow.name, run)
    if found.status.is_finished:
        raise DagsterException(f"Run {found.metaflow_run_id} has ended already: it is {found.status.value}.")
    ended = end_run(service, found)
    how = f"{ended.status.value}." if ended.status.is_finished else "being terminated."
    obj.echo_always(f"Run {found.metaflow_run_id} is {how}", no_bold=True, highlight=None)


def _steps_of_run(obj: Any, run: RunRecord) -> dict[str, str | None]:
    """The ops of a run's steps, as `Deployment.loop_of_op`; of a job not deployed here, those the flow has now."""
    from metaflow_pipes.compile.naming import op_names
    from metaflow_pipes.deployment.lookup import deployment_of_job

    job = run.of_assets or run.job_name
    deployment = deployment_of_job(job, obj.flow.name)
    if deployment is not None:
        return deployment.loop_of_op
    return dict.fromkeys(op_names(obj.graph.sorted_nodes, taken={job}).values())
