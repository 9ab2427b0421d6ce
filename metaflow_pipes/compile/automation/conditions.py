"""The sensor of `--automation`, and of a translator's automation conditions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaflow_pipes.compile.automation.cron import CronError, in_words, is_time_zone, translate
from metaflow_pipes.compile.job_model import AutomationModel
from metaflow_pipes.compile.translator import overridden_by_translator, refuse_said_twice
from metaflow_pipes.errors import CompileError, VerbatimError
from metaflow_pipes.names import ASSET_EVENT_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable

    from metaflow_pipes.compile.flow_model import FlowModel
    from metaflow_pipes.compile.job_options import JobOptions

ON_CRON = "on_cron:"
DEFAULT_TIMEZONE = "UTC"
_WHEN = {
    "eager": "when one of the assets that it depends on has been materialized",
    "on_missing": "when its assets become missing, as those of new partitions are, and what it depends on is there",
}


def condition_of(options: JobOptions) -> str | None:
    """The expression of the automation condition that the user asks for, or None.

    Args:
        options: What the user asks for.

    Raises:
        CompileError: There is no such condition, or the translator has one, too.
    """
    if options.automation is None:
        return None
    refuse_said_twice(options, "--automation", "get_automation_condition")
    if options.automation in _WHEN:
        return f"dg.AutomationCondition.{options.automation}()"
    if not options.automation.startswith(ON_CRON):
        raise VerbatimError(
            f"--automation is {options.automation!r}. Use one of {', '.join(_WHEN)}, or on_cron:EXPRESSION, as in "
            '"on_cron:0 6 * * *@Europe/Berlin".'
        )
    cron, timezone = _cron(options.automation)
    return f'dg.AutomationCondition.on_cron("{cron}", "{timezone}")'


def automation_sensors(flow: FlowModel, job: str, options: JobOptions) -> Iterable[AutomationModel]:
    """The sensor by which Dagster materializes the flow's assets, if they have automation conditions.

    Args:
        flow: The flow.
        job: The job's name.
        options: What the user asks for: a condition that `condition_of` takes.

    Raises:
        CompileError: What it starts would lack the value of a parameter, or start twice.
    """
    by_translator = "get_automation_condition" in overridden_by_translator(options)
    if options.automation is None and not by_translator:
        return
    what = (
        f"the translator {options.translator} has get_automation_condition" if by_translator else "it has --automation"
    )
    required = [parameter.name for parameter in flow.parameters if parameter.is_required]
    if required:
        raise CompileError(
            f"Flow *{flow.name}* can't be materialized by itself, though {what}: nothing gives it the required "
            f"parameter{'s' if len(required) > 1 else ''} *{', '.join(required)}*. Give defaults to them, or compile "
            f"it with {' '.join(f'--param-from {name}=ASSET' for name in required)}."
        )
    events = [event.name for trigger in flow.triggers for event in trigger.events]
    assets = [name for name in events if name.startswith(ASSET_EVENT_PREFIX)]
    if assets:
        raise CompileError(
            f"Flow *{flow.name}* has a trigger on {assets[0]}, and {what}: each materialization of that asset would "
            "start it twice. Use one of them."
        )
    arguments = {"paused": True} if options.paused else {}
    yield AutomationModel(
        f"{job}_automation", "automation_sensor", arguments, f"materializes {flow.name} {_when(options)}"
    )


def automation_warnings(flow: FlowModel, options: JobOptions) -> Iterable[str]:
    """A sentence if what `--automation` waits for can't come."""
    depends = options.depends_on or options.param_from or "get_deps" in overridden_by_translator(options)
    if options.automation == "eager" and not depends:
        yield (
            f"--automation eager starts flow {flow.name} once, and then never: it depends on no asset of others. Say "
            "which by --depends-on."
        )


def _when(options: JobOptions) -> str:
    if options.automation is None:
        return f"when the automation conditions of {options.translator} say so"
    if options.automation in _WHEN:
        return f"{_WHEN[options.automation]} ({options.automation})"
    cron, timezone = _cron(options.automation)
    words = in_words(cron)
    return (
        f"{f'{words}, by' if words else 'by'} the cron expression `{cron}` in time zone {timezone}, once all assets "
        "that it depends on have been materialized since then"
    )


def _cron(automation: str) -> tuple[str, str]:
    """The cron expression of `on_cron:EXPR[@ZONE]`, in the five fields of cron, and its time zone."""
    expression, _, timezone = automation.removeprefix(ON_CRON).rpartition("@")
    if not expression:
        expression, timezone = automation.removeprefix(ON_CRON), DEFAULT_TIMEZONE
    if not is_time_zone(timezone):
        raise VerbatimError(
            f"--automation {automation!r} has the time zone {timezone!r}, which the IANA database does not have. Use a "
            "name like Europe/Berlin, or leave it out for UTC."
        )
    try:
        cron = translate(expression).text
    except CronError as error:
        raise VerbatimError(f"--automation {automation!r} can't be used: {error}.") from None
    import dagster as dg

    try:
        dg.AutomationCondition.on_cron(cron, timezone)
    except Exception as error:  # Dagster's own check raises errors of a private class
        raise VerbatimError(f"--automation {automation!r} can't be used: Dagster takes no `{cron}`: {error}") from None
    return cron, timezone
