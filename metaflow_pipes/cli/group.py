"""`python flow.py dagster ...`: the command group.

Metaflow may import this module on the way to any command that is not its own, so each command imports what it needs
only when it runs.
"""

from __future__ import annotations

from metaflow._vendor import click

from metaflow_pipes.cli.automation import suspend, unsuspend
from metaflow_pipes.cli.create import compile_, create
from metaflow_pipes.cli.deployments import delete, list_jobs
from metaflow_pipes.cli.events import publish
from metaflow_pipes.cli.launch import resume, trigger
from metaflow_pipes.cli.runs import list_runs, status, terminate

# `--name` stands here for all commands; they find it in the parent of their context.
dagster = click.Group(
    "dagster",
    help="Commands related to Dagster.",
    params=[click.Option(["--name"], default=None, help="The name of the Dagster job. [default: the flow's name]")],
)
cli = click.Group(commands={"dagster": dagster})
for command in (
    *(create, delete, list_jobs, compile_),
    *(trigger, resume, status, list_runs, terminate),
    *(suspend, unsuspend, publish),
):
    dagster.add_command(command)
