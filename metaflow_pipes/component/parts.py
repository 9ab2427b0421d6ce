"""The attributes of an entry that have parts of their own, and how templates in its text are resolved."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import dagster as dg

from metaflow_pipes.compile.flow_model import EventModel, ScheduleModel
from metaflow_pipes.errors import CompileError

# A variable of the run's environment, as Dagster's templates name it: `{{ env.API_KEY }}`, `{{ env("API_KEY") }}`.
_ENV = re.compile(r"""\{\{\s*env(?:\.(?P<name>\w+)|\(\s*(["'])(?P<quoted>\w+)\2\s*\))\s*\}\}""")
_ANY_ENV = re.compile(r"\{\{[^}]*\benv\b|\{%[^%]*\benv\b")

# The step_env of an entry, as Python gives it.
StepEnv = Mapping[str, str | dg.EnvVar]


@dataclass
class MetaflowOptions(dg.Resolvable):
    """Metaflow's own options, which come before the command: `python flow.py --datastore=s3 ...`."""

    datastore: Annotated[
        str | None, dg.Resolver.default(description="Where artifacts are stored.", examples=["local", "s3"])
    ] = None
    datastore_root: Annotated[
        str | None,
        dg.Resolver.default(
            description="The root of the datastore.", examples=["s3://bucket/metaflow", "/data/.metaflow"]
        ),
    ] = None
    metadata: Annotated[
        str | None, dg.Resolver.default(description="Where runs are registered.", examples=["local", "service"])
    ] = None
    environment: Annotated[
        str | None, dg.Resolver.default(description="What makes the environments of steps.", examples=["local"])
    ] = None
    production: Annotated[
        bool, dg.Resolver.default(description="Whether a flow with @project is deployed to its production branch.")
    ] = False
    branch: Annotated[
        str | None,
        dg.Resolver.default(description="The branch that a flow with @project is deployed to.", examples=["staging"]),
    ] = None
    config: Annotated[
        Mapping[str, str],
        dg.Resolver.default(
            description="The file of each Config of the flow, from the project's folder.",
            examples=[{"settings": "config/settings.json"}],
        ),
    ] = field(default_factory=dict)
    config_value: Annotated[
        Mapping[str, Any],
        dg.Resolver.default(
            description="The value of each Config of the flow that has no file.", examples=[{"settings": {"depth": 3}}]
        ),
    ] = field(default_factory=dict)
    decospecs: Annotated[
        Sequence[str],
        dg.Resolver(
            lambda context, value: context.resolve_value(value),
            model_field_name="with",
            model_field_type=Sequence[str],
            description="Decorators for every step, as in `run --with`.",
            examples=[["card", "timeout:minutes=10"]],
        ),
    ] = ()

    def keywords(self) -> dict[str, Any]:
        """The options that are given, as `DagsterCompiler` takes them."""
        given = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value for name, value in given.items() if value not in (None, False, (), {}, [])}


@dataclass
class ScheduleSpec(dg.Resolvable):
    """A schedule in place of the flow's `@schedule`."""

    cron: Annotated[
        str,
        dg.Resolver.default(
            description="A cron expression, of five fields or as @schedule takes it.", examples=["0 6 * * MON-FRI"]
        ),
    ]
    timezone: Annotated[
        str | None,
        dg.Resolver.default(description="The time zone, by default UTC.", examples=["Europe/Berlin"]),
    ] = None


@dataclass
class EventSpec(dg.Resolvable):
    """An event that the flow waits for."""

    name: Annotated[
        str,
        dg.Resolver.default(
            description="The event's name; `asset:` and a key for a materialization of another asset.",
            examples=["data_ready", "asset:raw/events"],
        ),
    ]
    parameters: Annotated[
        Mapping[str, str],
        dg.Resolver.default(
            description="For each parameter of the flow that the event sets, the field of its payload.",
            examples=[{"rows": "row_count"}],
        ),
    ] = field(default_factory=dict)


@dataclass
class RetrySpec(dg.Resolvable):
    """The retries of steps without `@retry`."""

    max_retries: Annotated[int, dg.Resolver.default(description="How many attempts follow a failed one.", examples=[2])]
    delay: Annotated[
        float, dg.Resolver.default(description="The pause before each of them, in seconds.", examples=[30])
    ] = 0


def resolve_step_env(context: dg.ResolutionContext, variables: Mapping[str, Any]) -> StepEnv:
    """The variables of all steps; those of the run's environment keep their names, and no value is looked up now.

    Args:
        context: The context of the attribute.
        variables: The variables, as they are written in the entry.

    Raises:
        CompileError: A variable of the environment is a part of a value only.
    """
    return {name: _variable(context.at_path(name), name, value) for name, value in variables.items()}


def _variable(context: dg.ResolutionContext, name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return str(value)
    found = _ENV.fullmatch(value.strip())
    if found is not None:
        return dg.EnvVar(found["name"] or found["quoted"])
    if _ANY_ENV.search(value):
        raise CompileError(
            f"The step_env variable {name} is {value!r}. A variable of the environment is looked up when a step runs, "
            "and so it has to be the whole value: '{{ env.NAME }}'. Put the rest together in the step, or in NAME."
        )
    resolved = context.resolve_value(value)
    return resolved if isinstance(resolved, (str, dg.EnvVar)) else str(resolved)


def schedule_of(given: ScheduleSpec | str | bool) -> ScheduleModel | bool:
    """The `schedule` of an entry, as the compiler takes it."""
    if isinstance(given, ScheduleSpec):
        return ScheduleModel(given.cron.strip(), given.timezone)
    if isinstance(given, bool) or given == "auto":
        return given is not False
    return ScheduleModel(given.strip())


def triggers_of(given: Sequence[EventSpec | str] | str | bool) -> Sequence[EventModel] | bool:
    """The `triggers` of an entry, as the compiler takes them.

    Raises:
        CompileError: It is another word than `auto`.
    """
    if isinstance(given, bool) or given == "auto":
        return given is not False
    if isinstance(given, str):
        raise CompileError(f"triggers is {given!r}. Use auto, false, or a list of events, such as [{given}].")
    return [
        EventModel(event.name, dict(event.parameters)) if isinstance(event, EventSpec) else EventModel(event)
        for event in given
    ]


def decospecs_of(retries: RetrySpec | int | None) -> tuple[str, ...]:
    """The `retries` of an entry, as a decorator for the steps that have no `@retry`.

    Raises:
        CompileError: A number is negative.
    """
    if retries is None:
        return ()
    policy = RetrySpec(retries) if isinstance(retries, int) else retries
    if policy.max_retries < 0 or policy.delay < 0:
        raise CompileError(
            f"retries is {policy.max_retries} with a delay of {policy.delay} s, but neither is negative."
        )
    return (f"retry:times={policy.max_retries},minutes_between_retries={policy.delay / 60:g}",)
