"""The warnings of the compiler: options without effect, types that are lost, values that look like credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaflow_pipes.compile.automation.notifications import ENVIRONMENT_PREFIX, webhooks, without_secrets
from metaflow_pipes.compile.credentials import looks_like_credential
from metaflow_pipes.compile.job_options import FromRunEnvironment

if TYPE_CHECKING:
    from collections.abc import Iterable

    from metaflow_pipes.compile.flow_model import FlowModel
    from metaflow_pipes.compile.job_options import JobOptions


def trigger_warnings(flow: FlowModel) -> Iterable[str]:
    """A sentence for each option of a trigger that does nothing."""
    for trigger in flow.triggers:
        for option in trigger.unknown_options:
            yield (
                f"@{trigger.decorator} of flow {flow.name} has the option {option}, which has no effect on Dagster. "
                'What it takes is options={"reset_at": {"cron": "...", "timezone": "..."}}.'
            )


def limit_warnings(flow: FlowModel, options: JobOptions) -> Iterable[str]:
    """A sentence for a limit of runs where nothing starts runs that it could limit."""
    if options.max_concurrent_runs is not None and flow.schedule is None and not flow.triggers:
        yield (
            f"--max-concurrent-runs, or --no-overlap, has no effect: flow {flow.name} has no @schedule, @trigger or "
            "@trigger_on_finish, and it limits no other runs. Dagster's run queue limits all: tag_concurrency_limits "
            f"in dagster.yaml, by the tag metaflow/flow: {flow.name}."
        )


def config_warnings(flow: FlowModel) -> Iterable[str]:
    """A sentence for each `Config` whose value has another type in the steps."""
    for config, types in flow.lost_config_types.items():
        yield (
            f"Config {config} of flow {flow.name} holds {types}, and the steps get a plain dict, list, tuple, string "
            "or number: the definitions file has literals. Convert it in the steps, or let its parser return those."
        )


def exit_hook_warnings(flow: FlowModel) -> Iterable[str]:
    """A sentence for each exit hook that can't be imported where the flow is compiled."""
    for path, problem in flow.exit_hooks.not_importable.items():
        yield (
            f"The hook {path} of @exit_hook of flow {flow.name} can't be imported here ({problem}). It fails after "
            "each run, unless it can be imported where the run is executed."
        )


def notification_warnings(options: JobOptions) -> Iterable[str]:
    """A sentence for each address of a receiver that is given itself, and not by a variable's name."""
    written = webhooks(without_secrets(options))
    for name, url in webhooks(options).items():
        option = f"--{name.replace('_', '-')}"
        if url == written[name] and not url.startswith(ENVIRONMENT_PREFIX):
            yield (
                f"The address of {option} is written into the definitions file. If it is secret, as those of Slack "
                f"are, give the name of an environment variable that holds it: {option} env:NAME."
            )
        elif url != written[name]:
            variable = written[name].removeprefix(ENVIRONMENT_PREFIX)
            yield (
                f"The address of {option} is a secret, so it is not written into the definitions file. No message is "
                f"sent before you set {variable} to it in the environment of the Dagster code location, and of "
                f"`dagster trigger`. For a variable of another name: {option} env:NAME."
            )


def credential_warnings(flow: FlowModel, options: JobOptions) -> Iterable[str]:
    """A sentence for each value that looks like a credential and is about to be written."""
    advice = (
        "To keep it out, leave the value to the environment of the Dagster run: `--step-env {name}` (without a "
        "value), or dagster.EnvVar in DagsterCompiler(step_env=...)."
    )
    for name, value in options.step_env.items():
        if not isinstance(value, FromRunEnvironment) and looks_like_credential(name, value):
            yield (
                f"The step_env variable {name} looks like a credential, and its value is written into the "
                f"definitions file, in METAFLOW_STEP_ENV. {advice.format(name=name)}"
            )
    for key in _credential_keys("executor-config", options.executor_config):
        yield (
            f"--{key} looks like a credential, and its value is written into the definitions file, in EXECUTOR. To "
            "keep it out, give the name of a variable of the run's environment that holds it, as Dagster takes it: "
            "{env: NAME}."
        )
    for step in flow.steps:
        for name, value in step.environment.items():
            if looks_like_credential(name, value):
                yield (
                    f"The @environment variable {name} of step {step.name} looks like a credential, and its value "
                    f"is written into the definitions file, in extra_env of op_{step.name}. Remove it from "
                    f"@environment. {advice.format(name=name)}"
                )
    for parameter in flow.parameters:
        if parameter.has_default and looks_like_credential(parameter.name, parameter.default):
            yield (
                f"The default of parameter {parameter.name} looks like a credential, and is written into the "
                "definitions file, in FLOW. Use an environment variable or @secrets in its place."
            )
    for config, value in flow.configs.items():
        for key in _credential_keys(config, value):
            yield (
                f"The config value {key} looks like a credential, and is written into the definitions file, in "
                "FLOW. Use an environment variable or @secrets in its place."
            )


def _credential_keys(path: str, value: object) -> Iterable[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _credential_keys(f"{path}.{key}", item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _credential_keys(path, item)
    elif looks_like_credential(path.rpartition(".")[2], value):
        yield path
