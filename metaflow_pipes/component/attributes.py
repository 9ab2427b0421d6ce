"""The attributes of an entry: what the compiler is asked for, and how the steps become assets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

import dagster as dg
from dagster.components.resolved.core_models import AssetPostProcessor
from dagster.components.utils.translation import TranslationFn, TranslationFnResolver

from metaflow_pipes.compile.job_options import JobOptions
from metaflow_pipes.compile.keywords import without_dagsters_types
from metaflow_pipes.component.parts import (
    EventSpec,
    MetaflowOptions,
    RetrySpec,
    ScheduleSpec,
    StepEnv,
    resolve_step_env,
    schedule_of,
    triggers_of,
)
from metaflow_pipes.names import WarmStart
from metaflow_pipes.runtime import MetaflowFlow, MetaflowStep


class FlowStep(NamedTuple):
    """A step of a flow: what templates of `translation` can name."""

    flow: MetaflowFlow
    step: MetaflowStep


def _translation_resolver() -> dg.Resolver:
    resolver = TranslationFnResolver[FlowStep](
        template_vars_for_translation_fn=lambda data: {"flow": data.flow, "step": data.step}
    )
    # Dagster's own constructor takes neither
    resolver.description = (
        "What the asset of each step is: its key, group_name, owners, tags, metadata, automation_condition, ... "
        "Templates can name `step`, `flow` and `spec`, the asset as it is without this. An automation_condition of all "
        "steps is one for the flow as a whole."
    )
    resolver.examples = [{"key": "models/{{ step.name }}", "group_name": "training", "owners": ["team:ml"]}]
    return resolver


@dataclass(kw_only=True)
class FlowAttributes:
    """The attributes of an entry. Their descriptions are the documentation, and the schema for editors."""

    flow_file: Annotated[
        str | None,
        dg.Resolver.default(
            description="The flow file; a relative path starts at the entry's folder, or in Python at the project's.",
            examples=["{{ context.project_root }}/flows/train_flow.py"],
        ),
    ] = None
    flow_files: Annotated[
        Sequence[str] | str | None,
        dg.Resolver.default(
            description="Several flow files, in place of flow_file: paths and globs. All other attributes hold for "
            "each of the flows.",
            examples=["{{ context.project_root }}/flows/*_flow.py", ["a_flow.py", "b_flow.py"]],
        ),
    ] = None
    name: Annotated[
        str | None,
        dg.Resolver.default(
            description="The job's name, for one flow without @project. By default that of the flow; with @project, of "
            "project, branch and flow.",
            examples=["nightly_training"],
        ),
    ] = None
    top_level: Annotated[
        MetaflowOptions,
        dg.Resolver.default(
            description="Metaflow's own options, which come before the command.",
            examples=[{"datastore": "s3", "metadata": "service", "with": ["card"]}],
        ),
    ] = field(default_factory=MetaflowOptions)
    tags: Annotated[
        Sequence[str],
        dg.Resolver.default(description="Metaflow tags of each run.", examples=[["nightly", "model:linear"]]),
    ] = ()
    namespace: Annotated[
        str | None,
        dg.Resolver.default(
            description="The Metaflow namespace of the steps. By default that of the job's production token.",
            examples=["production:shared"],
        ),
    ] = None
    step_env: Annotated[
        StepEnv,
        dg.Resolver(
            resolve_step_env,
            model_field_type=Mapping[str, str | int | float],
            inject_before_resolve=False,
            description="Environment variables of all steps. `{{ env.NAME }}` is looked up when a step runs, in the "
            "environment of the Dagster run, and its value is never written.",
            examples=[{"AWS_REGION": "us-west-2", "API_KEY": "{{ env.API_KEY }}"}],
        ),
    ] = field(default_factory=dict)
    parameters: Annotated[
        Mapping[str, Any],
        dg.Resolver.default(
            description="Defaults of the flow's parameters in this deployment.", examples=[{"learning_rate": 0.1}]
        ),
    ] = field(default_factory=dict)
    schedule: Annotated[
        ScheduleSpec | str | bool,
        dg.Resolver.default(
            description="When runs start by themselves: `auto` takes the flow's @schedule, `false` none; or a cron "
            "expression, in UTC or with a timezone.",
            examples=["auto", "0 6 * * *", {"cron": "0 6 * * *", "timezone": "Europe/Berlin"}, False],
        ),
    ] = "auto"
    schedule_parameters: Annotated[
        Mapping[str, Any],
        dg.Resolver.passthrough(
            description="Values of parameters in scheduled runs. `{scheduled_time:%Y-%m-%d}` is the time when a run is "
            "due.",
            examples=[{"day": "{scheduled_time:%Y-%m-%d}"}],
        ),
    ] = field(default_factory=dict)
    triggers: Annotated[
        Sequence[EventSpec] | Sequence[str] | str | bool,
        dg.Resolver.default(
            description="The events that start runs: `auto` takes the flow's @trigger and @trigger_on_finish, `false` "
            "none; or a list, all of which together start a run.",
            examples=[
                "auto",
                ["data_ready"],
                [{"name": "asset:raw/events", "parameters": {"rows": "row_count"}}],
                False,
            ],
        ),
    ] = "auto"
    paused: Annotated[
        bool, dg.Resolver.default(description="Whether schedules and sensors are stopped until somebody starts them.")
    ] = False
    max_concurrent_runs: Annotated[
        int | None,
        dg.Resolver.default(
            description="How many runs can be under way before schedules and triggers start no other one.", examples=[1]
        ),
    ] = None
    partitions: Annotated[
        Mapping[str, str],
        dg.Resolver.default(
            description="The partitions of job and assets: for each parameter that their keys fill, hourly:START, "
            "daily:START, weekly:START, monthly:START, cron:EXPRESSION:START, static:a,b,c or dynamic:NAME. Two are "
            "two dimensions.",
            examples=[{"date": "daily:2026-01-01"}, {"region": "static:eu,us"}],
        ),
    ] = field(default_factory=dict)
    partition_format: Annotated[
        str | None,
        dg.Resolver.default(
            description="The form in which a parameter gets the key of a time, as strftime takes it.",
            examples=["%Y%m%d"],
        ),
    ] = None
    partition_range: Annotated[
        Sequence[str],
        dg.Resolver.default(
            description="Two parameters, which get the first and the last key of a run that makes several partitions.",
            examples=[["first", "last"]],
        ),
    ] = ()
    depends_on: Annotated[
        Sequence[str],
        dg.Resolver.default(
            description="The assets that the flow depends on: its first assets, or with STEP=KEY that of the step.",
            examples=[["raw/events", "train=raw/features"]],
        ),
    ] = ()
    param_from: Annotated[
        Mapping[str, str],
        dg.Resolver.default(
            description="For each parameter that the value of an asset fills, the key of the asset.",
            examples=[{"events": "raw/events"}],
        ),
    ] = field(default_factory=dict)
    automation: Annotated[
        str | None,
        dg.Resolver.default(
            description="When Dagster materializes the flow by itself: eager, on_missing or on_cron:EXPRESSION[@ZONE].",
            examples=["eager", "on_cron:0 6 * * *@Europe/Berlin"],
        ),
    ] = None
    executor: Annotated[
        str,
        dg.Resolver.default(
            description="The job's executor: threads, multiprocess, in_process, or package.module:executor_def.",
            examples=["multiprocess", "dagster_k8s:k8s_job_executor"],
        ),
    ] = "threads"
    executor_config: Annotated[
        Mapping[str, Any],
        dg.Resolver.default(
            description="Fields of the executor's config, as defaults of what a run's config has for it.",
            examples=[{"broker": "redis://redis:6379/0"}],
        ),
    ] = field(default_factory=dict)
    max_workers: Annotated[
        int | None,
        dg.Resolver.default(
            description="How many steps run at the same time, with threads and multiprocess. By default as many as "
            "there are CPUs.",
            examples=[8],
        ),
    ] = None
    location_executor: Annotated[
        Literal["threads", "own", "project"],
        dg.Resolver.default(
            description="What runs assets that are materialized from the asset graph, with no job: the `threads` "
            "executor, which then is that of all assets of the project; the job's `own`; or that of the `project`. "
            "Dagster takes one for a project, so where the project sets one, it has to be `project`."
        ),
    ] = "threads"
    warm: Annotated[
        WarmStart,
        dg.Resolver.default(
            description="How the threads executor starts steps: `metaflow` forks them from a process that has imported "
            "Metaflow, `flow` from one that has imported what the flow imports, too, `off` does neither."
        ),
    ] = "metaflow"
    package: Annotated[
        bool | None,
        dg.Resolver.default(
            description="Whether the flow's code package is stored in its datastore, for workers that do not have the "
            "flow file. By default with a datastore that other machines reach."
        ),
    ] = None
    pools: Annotated[
        Mapping[str, str],
        dg.Resolver.default(
            description="The Dagster pool of each step that has one.", examples=[{"train": "gpu", "score": "gpu"}]
        ),
    ] = field(default_factory=dict)
    priority: Annotated[
        int | None, dg.Resolver.default(description="The priority of the runs in Dagster's queue.", examples=[10])
    ] = None
    retries: Annotated[
        RetrySpec | int | None,
        dg.Resolver.default(
            description="How often steps without @retry are tried again.", examples=[2, {"max_retries": 2, "delay": 30}]
        ),
    ] = None
    workflow_timeout: Annotated[
        int | None, dg.Resolver.default(description="How long a run may take, in seconds.", examples=[3600])
    ] = None
    log_level: Annotated[
        Literal["debug", "info", "warning", "error", "critical", "off"],
        dg.Resolver.default(
            description="Which records of Python's logging in the steps are events of the run, too: those of this "
            "level and above."
        ),
    ] = "warning"
    notify_on_error: Annotated[
        bool, dg.Resolver.default(description="Whether a message is sent for each run that fails or is canceled.")
    ] = False
    notify_on_success: Annotated[
        bool, dg.Resolver.default(description="Whether a message is sent for each run that succeeds.")
    ] = False
    notify_slack_webhook_url: Annotated[
        str | None,
        dg.Resolver.default(
            description="The incoming webhook of Slack that takes the messages: env:NAME, the variable that holds it.",
            examples=["env:SLACK_WEBHOOK"],
        ),
    ] = None
    notify_webhook_url: Annotated[
        str | None,
        dg.Resolver.default(
            description="An address that takes the messages as JSON, or env:NAME for the variable that holds it.",
            examples=["env:WEBHOOK"],
        ),
    ] = None
    notify_email: Annotated[
        str | None,
        dg.Resolver.default(
            description="Who gets the messages as e-mail; several addresses are separated by commas.",
            examples=["ml@example.com"],
        ),
    ] = None
    translator: Annotated[
        str | None,
        dg.Resolver.default(
            description="The import path of a subclass of metaflow_pipes.runtime.DagsterMetaflowTranslator, which says "
            "how steps become assets.",
            examples=["shop.dagster.ShopTranslator"],
        ),
    ] = None
    translation: Annotated[
        TranslationFn[FlowStep] | None,
        _translation_resolver(),
    ] = None
    select: Annotated[
        Sequence[str],
        dg.Resolver.default(
            description="The steps that are assets, by names or patterns of them. By default all.",
            examples=[["train*"]],
        ),
    ] = ()
    exclude: Annotated[
        Sequence[str],
        dg.Resolver.default(
            description="The steps that are no assets, by names or patterns of them.", examples=[["start", "end"]]
        ),
    ] = ()
    post_process: Annotated[
        Sequence[AssetPostProcessor],
        dg.Resolver.default(
            description="Changes of the assets that are made last, each of a selection of them.",
            examples=[[{"target": "key:TrainFlow/choose", "attributes": {"tags": {"tier": "gold"}}}]],
        ),
    ] = ()

    @property
    def patterns(self) -> tuple[str, ...]:
        """The paths and globs of the flow files."""
        several = [self.flow_files] if isinstance(self.flow_files, str) else self.flow_files or []
        return (*([] if self.flow_file is None else [self.flow_file]), *several)

    def options(self) -> JobOptions:
        """The options of the compiler."""
        module, _, attribute = (self.translator or "").rpartition(".")
        return JobOptions(
            name=self.name,
            tags=tuple(self.tags),
            namespace=self.namespace,
            step_env=without_dagsters_types(self.step_env),
            max_workers=self.max_workers,
            executor=self.executor,
            log_level=self.log_level,
            # as Dagster writes the types of components, or as `create --translator` does
            translator=f"{module}:{attribute}" if module and ":" not in attribute else self.translator,
            workflow_timeout=self.workflow_timeout,
            warm=self.warm,
            paused=self.paused,
            notify_on_error=self.notify_on_error,
            notify_on_success=self.notify_on_success,
            notify_slack_webhook_url=self.notify_slack_webhook_url,
            notify_webhook_url=self.notify_webhook_url,
            notify_email=self.notify_email,
            schedule_parameters=dict(self.schedule_parameters),
            max_concurrent_runs=self.max_concurrent_runs,
            pools=dict(self.pools),
            priority=self.priority,
            depends_on=tuple(self.depends_on),
            param_from=dict(self.param_from),
            automation=self.automation,
            partition_by=dict(self.partitions),
            partition_format=self.partition_format,
            partition_range=tuple(self.partition_range),
            package=self.package,
            executor_config=dict(self.executor_config),
            parameter_defaults=dict(self.parameters),
            schedule=schedule_of(self.schedule),
            triggers=triggers_of(self.triggers),
        )
