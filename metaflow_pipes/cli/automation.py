"""The commands for what starts a deployed flow by itself: `suspend` and `unsuspend`."""

from __future__ import annotations

from typing import Any

from metaflow._vendor import click

from metaflow_pipes.cli.command import Command, DagsterException, definitions_file_option, url_option


@click.command(
    cls=Command,
    help="Stop the schedules and sensors of the deployed flow, until `unsuspend`. Runs that are under way go on.",
)
@definitions_file_option
@url_option
@click.pass_context
def suspend(ctx: Any, definitions_file: str | None, url: str | None) -> None:
    """Stop the schedules and sensors of the deployed flow."""
    _switch(ctx, definitions_file, url, is_on=False)


@click.command(cls=Command, help="Start the schedules and sensors of the deployed flow.")
@definitions_file_option
@url_option
@click.pass_context
def unsuspend(ctx: Any, definitions_file: str | None, url: str | None) -> None:
    """Start the schedules and sensors of the deployed flow."""
    _switch(ctx, definitions_file, url, is_on=True)


def _switch(ctx: Any, definitions_file: str | None, url: str | None, *, is_on: bool) -> None:
    from metaflow_pipes.deployment.lookup import deployment_of
    from metaflow_pipes.runs.connect import connect

    deployment = deployment_of(ctx, definitions_file=definitions_file)
    service = connect(url)
    names = service.switch_automation(deployment, is_on=is_on)
    if not names:
        raise DagsterException(
            f"The job {deployment.name} has no schedule and no sensor in {deployment.definitions_file}: nothing starts "
            "it by itself."
        )
    for name in names:
        ctx.obj.echo_always(f"{name} is {'running' if is_on else 'stopped'} on {service}.", no_bold=True)
