"""The commands that launch a run of a deployed flow: `trigger` and `resume`."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaflow._vendor import click

from metaflow_pipes.cli.command import (
    DagsterException,
    Interrupted,
    ParameterCommand,
    definitions_file_option,
    given_parameters,
    url_option,
)
from metaflow_pipes.cli.terminal import from_here, new_console
from metaflow_pipes.locations import program

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from metaflow_pipes.runs.service import DagsterService, RunRecord


# A JSON file in which Metaflow's Deployer API gives options by their Python names. There, values keep their types, may
# be of any size, and share no name with the flow's parameters, which are one of them.
LAUNCH_FILE_OPTION = "--deployer-launch-file"


def _launch_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        (
            click.option(
                "--run-param",
                "run_params",
                multiple=True,
                metavar="KEY=VALUE",
                help="Set a parameter of the flow. The same as --KEY VALUE. Can be given several times.",
            ),
            click.option(
                "--tag",
                "tags",
                multiple=True,
                help="Annotate this run with the given Metaflow tag, too. Can be given several times.",
            ),
            click.option(
                "--with",
                "decospecs",
                multiple=True,
                help="Add a decorator that acts within the steps' own code, such as card, to all steps of this run. "
                "Can be given several times.",
            ),
            click.option(
                "--namespace",
                "user_namespace",
                default=None,
                help="The Metaflow namespace of this run's steps. [default: that of the deployment]",
            ),
            click.option(
                "--workflow-timeout",
                type=int,
                default=None,
                metavar="SECONDS",
                help="How long this run may take. When that is over, its steps are ended, and it fails. "
                "[default: that of the deployment]",
            ),
            click.option(
                "--executor-config",
                default=None,
                metavar="FILE",
                help="A YAML or JSON file, or JSON, with fields of the executor's config, for this run. [default: that "
                "of the deployment]",
            ),
            click.option("--job-name", default=None, hidden=True, help="metaflow-dagster's word for `dagster --name`."),
            definitions_file_option,
            click.option(
                "--run-id-file", default=None, type=str, help="Write the ID of this run to the file specified."
            ),
            click.option(
                "--wait/--no-wait",
                default=False,
                show_default=True,
                help="Show the run's progress until it ends, and exit with 0 if it succeeds, else with 1.",
            ),
            url_option,
            click.option(LAUNCH_FILE_OPTION, default=None, hidden=True, help="For Metaflow's Deployer API."),
        )
    ):
        command = option(command)
    return command


@click.command(cls=ParameterCommand, shows_defaults=True, help="Launch a run of the deployed flow.")
@click.option(
    "--partition",
    default=None,
    metavar="KEY",
    help="The partition of the run, of a flow compiled with --partition-by: its key fills the parameter. Of two "
    "dimensions, KEY|KEY, in the order of the parameters' names; with --partition-range, also FIRST...LAST.",
)
@_launch_options
@click.pass_context
def trigger(ctx: Any, **options: Any) -> None:
    """Launch a run of the deployed flow."""
    options = _with_those_of_a_file(**options)
    partition = options.pop("partition")
    launch = _Launch(ctx, **options)
    launch.begin({**launch.from_environment(), **launch.given()}, {}, partition)


@click.command(
    cls=ParameterCommand,
    help="Launch a run that takes over what an earlier one has done, and goes on from there. Tasks that succeeded are "
    "cloned; with STEP_TO_RERUN, that step and all below it run again. Parameters are those of the earlier run, "
    "unless they are given.",
)
@click.argument("step-to-rerun", required=False)
@click.option(
    "--origin-run-id",
    default=None,
    help="ID of the run that should be resumed, on Dagster or by Metaflow's own `run`. [default: the last run]",
)
@click.option("--run-id", default=None, hidden=True, help="metaflow-dagster's word for --origin-run-id.")
@_launch_options
@click.pass_context
def resume(ctx: Any, **options: Any) -> None:
    """Launch a run that goes on from an earlier one."""
    from metaflow_pipes.runs.origin import Origin

    options = _with_those_of_a_file(**options)
    step_to_rerun, origin_run_id = options.pop("step_to_rerun"), options.pop("origin_run_id")
    origin_run_id = _under_own_name(ctx, "--run-id", options.pop("run_id"), "--origin-run-id", origin_run_id)
    launch = _Launch(ctx, **options)
    if step_to_rerun is not None and step_to_rerun not in launch.deployment.steps:
        steps = ", ".join(launch.deployment.steps)
        raise DagsterException(
            f"Flow {launch.deployment.flow_name} has no step {step_to_rerun}. Its steps are: {steps}."
        )
    origin = Origin.find(ctx.obj, launch.deployment, launch.service, origin_run_id)
    which = "" if origin_run_id else ", the latest run of the flow"
    ctx.obj.echo_always(f"Resuming {launch.deployment.flow_name}/{origin.run_id}{which}.", no_bold=True, highlight=None)
    given = launch.given()
    kept = origin.parameters(launch.deployment)
    # a parameter that the flow did not have then has its default
    not_kept = [p.name for p in launch.deployment.parameters if p.name in given or p.name not in kept]
    launch.begin({**kept, **given}, origin.tags(launch.service, step_to_rerun, not_kept))


def _under_own_name(ctx: Any, other: str, value: str | None, option: str, own_value: str | None) -> str | None:
    """The value of an option that may be given by the name which it has in metaflow-dagster.

    Args:
        ctx: The command's context.
        other: The other name.
        value: What it is given.
        option: The option, as the user is to call it.
        own_value: What the option itself is given.

    Raises:
        DagsterException: Both are given, and differ.
    """
    if value is None:
        return own_value
    if own_value not in (None, value):
        raise DagsterException(f"{option} is {own_value}, and {other}, which means the same, is {value}. Give one.")
    ctx.obj.echo_always(f"{other} is called {option} here.", no_bold=True, highlight=None)
    return value


def _with_those_of_a_file(*, deployer_launch_file: str | None, **options: Any) -> dict[str, Any]:
    """The options of a command, among them those of `LAUNCH_FILE_OPTION`."""
    if deployer_launch_file is None:
        return options
    return {**options, **json.loads(Path(deployer_launch_file).read_text(encoding="utf-8"))}


class _Launch:
    """The launch of a run by a command.

    Args:
        ctx: The command's context.
        options: The options of `_launch_options`.
        deployer_attribute_file: Where Metaflow's Deployer API reads which run was launched.
        parameters: The values that this API gives to parameters, by their names.
    """

    def __init__(
        self,
        ctx: Any,
        *,
        run_params: tuple[str, ...],
        tags: tuple[str, ...],
        decospecs: tuple[str, ...],
        user_namespace: str | None,
        workflow_timeout: int | None,
        executor_config: str | None,
        job_name: str | None,
        definitions_file: str | None,
        run_id_file: str | None,
        wait: bool,
        url: str | None,
        deployer_attribute_file: str | None = None,
        parameters: Mapping[str, Any] | None = None,
    ):
        from metaflow_pipes.deployment.lookup import chosen_name, deployment_of
        from metaflow_pipes.executor_config import executor_config_in
        from metaflow_pipes.run_options import RunOptions
        from metaflow_pipes.runs.connect import connect

        self._ctx = ctx
        self._run_params = run_params
        self._run_id_file = run_id_file
        self._wait = wait
        self._url = url
        self._deployer_attribute_file = deployer_attribute_file
        self._parameters = parameters or {}
        self._executor_config = {} if executor_config is None else executor_config_in(executor_config)
        self._options = RunOptions(tags, decospecs, user_namespace, workflow_timeout)
        self._check_options()
        name = _under_own_name(ctx, "--job-name", job_name, "--name", chosen_name(ctx))
        self.deployment = deployment_of(ctx, name, definitions_file)
        problem = self.deployment.staleness()
        if problem is not None:
            raise DagsterException(problem)
        if run_id_file is not None and not _is_writable(Path(os.path.abspath(run_id_file))):
            raise DagsterException(f"--run-id-file {run_id_file} can't be written. Is there such a folder?")
        self.service = connect(url)

    def _check_options(self) -> None:
        """Refuse options that no run can have.

        Raises:
            CompileError: Names the option, and says why.
        """
        from metaflow_pipes.compile.option_values import check_tags, check_workflow_timeout
        from metaflow_pipes.compile.run_decorators import check_run_decospecs

        check_tags(self._options.tags)
        check_workflow_timeout(self._options.workflow_timeout_seconds)
        check_run_decospecs(self._options.decospecs)

    def from_environment(self) -> dict[str, Any]:
        """The parameters that the environment sets, by their names."""
        from metaflow_pipes.runs.run_config import environment_texts, from_text

        return from_text(self.deployment, environment_texts(self.deployment, os.environ))

    def given(self) -> dict[str, Any]:
        """The parameters that were given, by their names."""
        from metaflow_pipes.runs.run_config import from_text, parameter_of, split_run_params

        given = from_text(self.deployment, {**given_parameters(self._ctx), **split_run_params(self._run_params)})
        given.update(self._parameters)
        return {parameter_of(self.deployment, name).name: value for name, value in given.items()}

    def begin(self, values: Mapping[str, Any], tags: Mapping[str, str], partition: str | None = None) -> None:
        """Launch the run, say which it is, and wait for its end if that was asked for.

        Args:
            values: The parameters' values.
            tags: Tags of the Dagster run.
            partition: The key of its partition, or None.
        """
        from metaflow_pipes.runs.included_files import with_stored_files
        from metaflow_pipes.runs.run_config import run_config

        tags = {**tags, **self._options.dagster_tags(self.deployment.tags)}
        echo = functools.partial(self._ctx.obj.echo_always, no_bold=True, highlight=None)
        values = with_stored_files(self.deployment, values, echo)
        config = run_config(self.deployment, values, partition)
        if self._executor_config:
            config["execution"] = {"config": self._executor_config}
        run = self.service.launch(self.deployment, config, tags, self._announce, partition)
        if self._wait:
            _wait(self._ctx.obj, self.service, run, self.deployment.loop_of_op)

    def _announce(self, run: RunRecord) -> None:
        if self._run_id_file is not None:
            _write(self._run_id_file, run.metaflow_run_id)
        if self._deployer_attribute_file is not None:
            attributes = {
                "name": self.deployment.name,
                "metadata": self.deployment.metadata_provider or self._ctx.obj.metadata.metadata_str(),
                "pathspec": run.pathspec,
                "dagster_run_id": run.dagster_run_id,
                "webserver": self._url,
            }
            _write(self._deployer_attribute_file, json.dumps(attributes))
        echo = functools.partial(self._ctx.obj.echo_always, no_bold=True, highlight=None)
        echo(f"Run of job {self.deployment.name} triggered.", fg="green")
        echo(f"    Definitions:   {from_here(self.deployment.definitions_file)}")
        echo(f"    Metaflow run:  {run.pathspec}")
        echo(f"    Dagster run:   {run.dagster_run_id}")
        echo(f"    Dagster UI:    {self.service.url(run.dagster_run_id)}")
        command = self.service.ui_command(self.deployment)
        if command is not None:
            echo(f"                   once it is open: {command}")
        folder = self.deployment.working_directory
        there = "" if Path.cwd() == folder else f"cd {shlex.quote(str(folder))} && "
        logs = self.deployment.logs_command(f"{run.metaflow_run_id}/STEP").removeprefix("python ")
        echo(f"    Logs:          {there}{program('python', in_folder=folder)} {logs}")


def _wait(obj: Any, service: DagsterService, run: RunRecord, steps: Mapping[str, str | None]) -> None:
    """Show a run until it has ended; one that does not succeed is an error of the command."""
    try:
        from metaflow_pipes.runs.progress import duration, watch
        from metaflow_pipes.runs.service import RunStatus

        ended, failures = watch(service, run, steps, new_console(stderr=True))
    except KeyboardInterrupt:
        flow_file = shlex.quote(obj.entrypoint[-1])
        raise Interrupted(
            f"Run {run.metaflow_run_id} goes on, and is no longer waited for. To end it: {program('python')} "
            f"{flow_file} dagster terminate {run.metaflow_run_id}"
        ) from None
    if ended.status is not RunStatus.SUCCEEDED:
        reasons = "".join(
            f"\n    {step}: {reason}" for step, reason in [("run", ended.loss)] * bool(ended.loss) + failures
        )
        raise DagsterException(f"Run {run.pathspec} is {ended.status.value}.{reasons}")
    seconds = ended.duration_seconds
    took = "" if seconds is None else f" after {duration(seconds)}"
    obj.echo_always(f"Run {run.pathspec} succeeded{took}.", fg="green", no_bold=True, highlight=None)


def _is_writable(path: Path) -> bool:
    return os.access(path if path.exists() else path.parent, os.W_OK)


def _write(path: str, text: str) -> None:
    """Write a file, whole or not at all; but what is there may be a pipe that somebody reads, or `/dev/stdout`."""
    from metaflow_pipes.files import replacing

    target = Path(os.path.abspath(path))
    is_replaceable = not target.is_symlink() and (target.is_file() or not target.exists())
    is_replaceable = is_replaceable and os.access(target.parent, os.W_OK)
    try:
        with replacing(target) if is_replaceable else contextlib.nullcontext(target) as file:
            file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DagsterException(f"{path} can't be written: {error.strerror}.") from None
