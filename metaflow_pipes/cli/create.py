"""The commands that compile a flow: `create`, and `compile` for another process."""

from __future__ import annotations

import functools
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaflow._vendor import click

from metaflow_pipes.cli.command import Command, DagsterException
from metaflow_pipes.cli.terminal import from_here

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaflow_pipes.compile.job_model import JobModel
    from metaflow_pipes.deployment.definitions_file import Deployment


@click.command(cls=Command, help="Compile this flow into a Dagster definitions file.")
@click.argument("definitions_file", required=False, type=click.Path())
@click.option("--name", default=None, help="The same as --name before `create`.")
@click.option(
    "--tag",
    "tags",
    multiple=True,
    help="Annotate each run with the given Metaflow tag. Can be given several times.",
)
@click.option(
    "--with",
    "decospecs",
    multiple=True,
    help="Add a decorator to all steps, as in `run --with`. Can be given several times.",
)
@click.option(
    "--namespace",
    "user_namespace",
    default=None,
    help="The Metaflow namespace of the steps: in it, Metaflow's client finds runs; those of another flow are in that "
    "flow's own. `namespace(None)` in a step finds all runs. [default: that of the production token]",
)
@click.option(
    "--step-env",
    "step_env",
    multiple=True,
    metavar="KEY[=VALUE]",
    help="Set an environment variable for all steps; without a value, it is taken from the environment of the "
    "Dagster run, and only its name is written into the file. Can be given several times.",
)
@click.option(
    "--max-workers",
    type=int,
    default=None,
    help="How many steps run at the same time. [default: the number of CPUs]",
)
@click.option(
    "--executor",
    default="threads",
    show_default=True,
    help="The job's executor: threads, multiprocess, in_process, or package.module:executor_def.",
)
@click.option(
    "--executor-config",
    default=None,
    metavar="FILE",
    help="A YAML or JSON file, or JSON, with fields of the executor's config: the defaults of the runs.",
)
@click.option(
    "--warm",
    default="metaflow",
    show_default=True,
    help="How the threads executor starts the processes of steps: metaflow forks them from a process that has imported "
    "Metaflow; flow from one that has imported what the flow file imports, too; off starts each by itself.",
)
@click.option(
    "--log-level",
    default="warning",
    show_default=True,
    help="Which records of Python's logging in the steps appear in Dagster's event log, too: those of this level and "
    "above. One of debug, info, warning, error, critical, or off.",
)
@click.option(
    "--translator",
    default=None,
    metavar="MODULE:CLASS",
    help="The import path of a subclass of metaflow_pipes.runtime.DagsterMetaflowTranslator, which says how steps "
    "become Dagster assets.",
)
@click.option(
    "--workflow-timeout",
    type=int,
    default=None,
    metavar="SECONDS",
    help="How long a run may take. When that is over, its steps are ended, and it fails. [default: no limit]",
)
@click.option(
    "--paused",
    is_flag=True,
    help="Deploy the flow's schedules and sensors stopped. They can be started by `dagster unsuspend`, or in the "
    "Dagster UI.",
)
@click.option(
    "--notify-on-error/--no-notify-on-error",
    default=False,
    show_default=True,
    help="Send a message for each run that fails or is canceled.",
)
@click.option(
    "--notify-on-success/--no-notify-on-success",
    default=False,
    show_default=True,
    help="Send a message for each run that succeeds.",
)
@click.option(
    "--notify-slack-webhook-url",
    default=None,
    metavar="URL",
    help="The incoming webhook of Slack that takes the messages; env:NAME for the variable that holds it.",
)
@click.option(
    "--notify-webhook-url",
    default=None,
    metavar="URL",
    help="An address that takes the messages as JSON, by POST; env:NAME for the variable that holds it.",
)
@click.option(
    "--notify-email",
    default=None,
    metavar="ADDRESS",
    help="Who gets the messages as e-mail; several addresses are separated by commas. SMTP_HOST and other variables "
    "say by which server.",
)
@click.option(
    "--schedule-param",
    "schedule_params",
    multiple=True,
    metavar="NAME=VALUE",
    help="The value of a parameter in the runs that @schedule starts; {scheduled_time:%Y-%m-%d} in it is the time when "
    "a run is due. Can be given several times.",
)
@click.option(
    "--no-overlap",
    is_flag=True,
    help="Start no run by a schedule or a trigger while another run of the job is under way. The same as "
    "--max-concurrent-runs 1.",
)
@click.option(
    "--max-concurrent-runs",
    type=int,
    default=None,
    metavar="N",
    help="Start no run by a schedule or a trigger while N runs of the job are under way. [default: no limit]",
)
@click.option(
    "--partition-by",
    "partition_by",
    multiple=True,
    metavar="PARAMETER=SPEC",
    help="Partition the job and its assets; the key of a run's partition fills the parameter. SPEC is hourly:START, "
    "daily:START, weekly:START, monthly:START or cron:EXPRESSION:START, with START such as 2026-01-01, each with ..END "
    "and @Europe/Berlin behind it if wanted; static:a,b,c; or dynamic:NAME. Given twice for two dimensions.",
)
@click.option(
    "--partition-format",
    default=None,
    metavar="FORMAT",
    help="The form in which the parameter gets the key of a time, as strftime takes it, such as %Y%m%d. [default: the "
    "key]",
)
@click.option(
    "--partition-range",
    default=None,
    metavar="START_PARAMETER,END_PARAMETER",
    help="Make several partitions in one run: the parameters get the keys of the first and the last one.",
)
@click.option(
    "--pool",
    "pools",
    multiple=True,
    metavar="STEP=NAME",
    help="The Dagster pool of a step: its limit says how many tasks of the pool's steps run at the same time, in all "
    "runs. Can be given several times.",
)
@click.option(
    "--priority",
    type=int,
    default=None,
    metavar="N",
    help="The priority of the runs in Dagster's queue. [default: 0]",
)
@click.option(
    "--kubernetes",
    default=None,
    metavar="[pod|job]",
    help="Where a step with @kubernetes runs: pod is the pod that the executor launches for its op, job is a job that "
    "Metaflow launches. [default: pod if the executor launches pods, else job]",
)
@click.option(
    "--depends-on",
    "depends_on",
    multiple=True,
    metavar="[STEP=]KEY",
    help="An asset that the flow depends on, such as raw/events: its first assets, or that of the step. Can be given "
    "several times.",
)
@click.option(
    "--param-from",
    "param_from",
    multiple=True,
    metavar="NAME=KEY",
    help="Fill a parameter with the value of an asset, loaded by that asset's own IO manager. Can be given several "
    "times.",
)
@click.option(
    "--automation",
    default=None,
    metavar="CONDITION",
    help="Let Dagster materialize the flow by itself: eager when an asset that it depends on is new, on_missing when "
    "its own become missing, as new partitions are, or on_cron:EXPRESSION[@ZONE].",
)
@click.option(
    "--package/--no-package",
    default=None,
    help="Store the flow's code package in its datastore: a worker that does not have the flow file, or has another "
    "version of it, fetches it from there. [default: with any datastore but the local one]",
)
@click.option(
    "--authorize",
    default=None,
    metavar="TOKEN",
    help="The production token of the deployment that this one replaces; needed once if another user has deployed it.",
)
@click.option(
    "--generate-new-token",
    is_flag=True,
    help="Generate a new production token, and so move the runs of the flow to a new namespace.",
)
@click.option(
    "--new-token",
    "given_token",
    default=None,
    metavar="TOKEN",
    help="Use the given production token, and so move the runs of the flow to its namespace.",
)
@click.option(
    "--deployer-attribute-file",
    default=None,
    hidden=True,
    help="Write what was deployed to this file, as JSON, for Metaflow's Deployer.",
)
@click.pass_context
def create(
    context: Any,
    definitions_file: str | None,
    name: str | None,
    tags: tuple[str, ...],
    decospecs: tuple[str, ...],
    user_namespace: str | None,
    step_env: tuple[str, ...],
    kubernetes: str | None,
    max_workers: int | None,
    executor: str,
    executor_config: str | None,
    warm: str,
    log_level: str,
    translator: str | None,
    workflow_timeout: int | None,
    paused: bool,
    notify_on_error: bool,
    notify_on_success: bool,
    notify_slack_webhook_url: str | None,
    notify_webhook_url: str | None,
    notify_email: str | None,
    schedule_params: tuple[str, ...],
    no_overlap: bool,
    max_concurrent_runs: int | None,
    partition_by: tuple[str, ...],
    partition_format: str | None,
    partition_range: str | None,
    package: bool | None,
    pools: tuple[str, ...],
    priority: int | None,
    depends_on: tuple[str, ...],
    param_from: tuple[str, ...],
    automation: str | None,
    authorize: str | None,
    generate_new_token: bool,
    given_token: str | None,
    deployer_attribute_file: str | None,
) -> None:
    """Compile the flow: read, lower, render, write."""
    from metaflow_pipes.compile.job_options import JobOptions
    from metaflow_pipes.compile.option_text import (
        parse_pairs,
        parse_param_from,
        parse_partition_by,
        parse_pools,
        parse_step_env,
    )
    from metaflow_pipes.compile.options import concurrent_runs
    from metaflow_pipes.compile.stages import CompileRequest, compile_flow
    from metaflow_pipes.deployment.deploy import deploy
    from metaflow_pipes.deployment.lookup import chosen_name
    from metaflow_pipes.deployment.production_tokens import TokenOptions
    from metaflow_pipes.executor_config import executor_config_in
    from metaflow_pipes.locations import program

    obj = context.obj
    options = JobOptions(
        name=chosen_name(context, name),
        tags=tags,
        namespace=user_namespace,
        step_env=parse_step_env(step_env),
        kubernetes=kubernetes,
        max_workers=max_workers,
        executor=executor,
        executor_config={} if executor_config is None else executor_config_in(executor_config),
        warm=warm,
        log_level=log_level,
        translator=translator,
        workflow_timeout=workflow_timeout,
        paused=paused,
        notify_on_error=notify_on_error,
        notify_on_success=notify_on_success,
        notify_slack_webhook_url=notify_slack_webhook_url,
        notify_webhook_url=notify_webhook_url,
        notify_email=notify_email,
        schedule_parameters=parse_pairs("--schedule-param", schedule_params),
        max_concurrent_runs=concurrent_runs(max_concurrent_runs, no_overlap=no_overlap),
        pools=parse_pools(pools),
        priority=priority,
        depends_on=depends_on,
        param_from=parse_param_from(param_from),
        automation=automation,
        partition_by=parse_partition_by(partition_by),
        partition_format=partition_format,
        partition_range=[] if partition_range is None else [name.strip() for name in partition_range.split(",")],
        package=package,
    )
    job = compile_flow(obj, CompileRequest(options, decospecs))
    deployed = deploy(job, definitions_file, TokenOptions(authorize, generate_new_token, given_token))
    deployment = deployed.deployment
    if deployer_attribute_file is not None:
        _write_deployer_attributes(obj, deployment, deployer_attribute_file)
    path = deployment.definitions_file
    for warning in (*job.warnings, *deployed.problems):
        obj.echo_always(f"Warning: {warning}", fg="yellow", highlight=None, no_bold=True)
    shown = shlex.quote(str(from_here(path)))
    echo = functools.partial(obj.echo, no_bold=True)
    echo(
        f"Compiled flow {obj.flow.name} to {shown}: Dagster job {job.name} with {len(job.ops)} ops.",
        fg="green",
    )
    echo(f"    {program('dagster')} dev -f {shown}", nl=True)
    echo(f"    {program('dagster')} job execute -f {shown} -j {job.name}")
    if job.flow.package is not None:
        echo(f"    Its code package, which workers without the flow file fetch: {job.flow.package.url}")
    _echo_compute(echo, job)
    _echo_automation(echo, job)
    echo(f"Its runs are in the {'new ' if deployed.token.is_new else ''}Metaflow namespace {deployed.token.namespace}")
    if user_namespace is None:
        echo("    Its steps see those alone: for other runs, call `namespace(None)` in the step, or give --namespace.")


@click.command(
    cls=Command, name="compile", hidden=True, help="Compile the flow as another process asks for it in a folder."
)
@click.argument("folder", type=click.Path())
@click.pass_obj
def compile_(obj: Any, folder: str) -> None:
    """Compile the flow for `metaflow_pipes.compile.stages.compile_file`."""
    from metaflow_pipes.compile.stages import answer_request
    from metaflow_pipes.deployment.deploy import with_first_token

    answer_request(obj, folder, with_first_token)


def _echo_compute(echo: Callable[..., None], job: JobModel) -> None:
    """Say where steps run that don't run here."""
    from metaflow_pipes.names import KUBERNETES

    for decorator, steps in job.steps_by_launcher().items():
        where = (
            "in the pods of their ops" if decorator == KUBERNETES and job.kubernetes == "pod" else "as jobs of its own"
        )
        advice = " (--kubernetes)" if decorator == KUBERNETES else ""
        echo(f"    @{decorator}: steps {', '.join(steps)} run {where}{advice}.")


def _echo_automation(echo: Callable[..., None], job: JobModel) -> None:
    """Say what starts the flow, what follows a run of it, and that a daemon has to see to that."""
    if not job.automation:
        return
    from metaflow_pipes.compile.automation.schedules import FACTORY as SCHEDULE
    from metaflow_pipes.compile.automation.schedules import next_time

    for automation in job.automation:
        echo(f"    {automation.name}: {automation.summary}.")
        if automation.factory == SCHEDULE:
            echo(f"        Next: {next_time(automation).isoformat(' ', 'minutes')}")
    if job.options.paused:
        echo(
            "They are deployed stopped: start them by `dagster unsuspend`, or on the Automation page of the Dagster UI."
        )
    echo("Schedules and sensors need a Dagster daemon: `dagster dev` includes one, or run `dagster-daemon run`.")


def _write_deployer_attributes(obj: Any, deployment: Deployment, file: str) -> None:
    """Tell Metaflow's Deployer what was deployed. It reads a pipe, so this is written once, and whole."""
    attributes = {
        "name": deployment.name,
        "flow_name": deployment.flow_name,
        "metadata": obj.metadata.metadata_str(),
        "additional_info": {"definitions_file": str(deployment.definitions_file)},
    }
    try:
        Path(file).write_text(json.dumps(attributes), encoding="utf-8")
    except OSError as error:
        raise DagsterException(f"--deployer-attribute-file {file} can't be written: {error.strerror}.") from None
