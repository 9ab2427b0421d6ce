"""The commands for deployments that there are: `delete` and `list-jobs`."""

from __future__ import annotations

from typing import Any

from metaflow._vendor import click

from metaflow_pipes.cli.command import Command, definitions_file_option


@click.command(
    cls=Command, help="Delete the deployment of this flow: its definitions file, and its entry among deployed jobs."
)
@click.option(
    "--authorize",
    default=None,
    metavar="TOKEN",
    help="The production token of the deployment; needed if another user has deployed it.",
)
@definitions_file_option
@click.pass_context
def delete(context: Any, authorize: str | None, definitions_file: str | None) -> None:
    """Remove a definitions file whose deployment the user may change."""
    from metaflow_pipes.deployment.lookup import deployment_of
    from metaflow_pipes.deployment.production_tokens import check_authorized
    from metaflow_pipes.deployment.registry import delete

    obj = context.obj
    deployment = deployment_of(context, definitions_file=definitions_file)
    check_authorized(deployment, authorize, command="delete", purpose="to delete it")
    delete(deployment)
    obj.echo(f"Deleted the Dagster job {deployment.name}: {deployment.definitions_file}", no_bold=True, fg="green")
    obj.echo(
        "Runs that are under way are not ended, but can't begin another step where the executor loads the file for "
        "each, as multiprocess does. Compile the flow again to let them go on.",
        no_bold=True,
    )


@click.command(
    cls=Command, name="list-jobs", help="List the deployed jobs of this flow: job, flow and definitions file."
)
@click.option("--all", "of_all_flows", is_flag=True, help="List the jobs of all flows.")
@click.pass_obj
def list_jobs(obj: Any, of_all_flows: bool) -> None:
    """A line for each job, on stdout, for other programs as well."""
    from metaflow_pipes.deployment.registry import registered

    deployments = registered(None if of_all_flows else obj.flow.name)
    rows = sorted(
        (deployment.name, deployment.flow_name, str(deployment.definitions_file)) for deployment in deployments
    )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if not rows:
        obj.echo(
            "No job is deployed." if of_all_flows else f"No job of flow {obj.flow.name} is deployed.", no_bold=True
        )
