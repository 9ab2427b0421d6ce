"""The time limit of a run (`--workflow-timeout`). No daemon enforces it but the ops, each for its own task."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from metaflow_pipes.runtime.flow import MetaflowFlow


def run_seconds_left(context: dg.OpExecutionContext, limit_seconds: int | None) -> float:
    """Seconds that the run may still take; infinite if it has no limit, and not above 0 when it is over.

    A re-execution is a run of its own, and has all of its time. In a run of assets, which may have made others before,
    the flow's time begins with its first step.

    Args:
        context: The op's context.
        limit_seconds: The time limit of the run, from its start, or None.
    """
    if limit_seconds is None:
        return math.inf
    record = context.instance.get_run_record_by_id(context.run_id)
    if record is None:  # deleted while it runs
        return limit_seconds
    started = record.create_timestamp.timestamp() if record.start_time is None else record.start_time
    if context.has_assets_def:
        steps = context.instance.get_run_step_stats(context.run_id)
        prefix = f"{context.op_handle.parent}."
        own = [step.start_time for step in steps if step.step_key.startswith(prefix) and step.start_time is not None]
        started = min(own, default=started)
    # a clock that was set back, or is another machine's, must not give it more
    return min(started + limit_seconds - time.time(), limit_seconds)


def refuse_late_start(context: dg.OpExecutionContext, flow: MetaflowFlow, step: str, limit_seconds: int | None) -> None:
    """Let no task start when the run's time is over.

    Args:
        context: The op's context.
        flow: The flow.
        step: The step's name.
        limit_seconds: As for `run_seconds_left`.

    Raises:
        dagster.Failure: It is over.
    """
    if run_seconds_left(context, limit_seconds) <= 0:
        raise dg.Failure(
            f"The run exceeded its time limit of {limit_seconds} s, so that step {step} of flow "
            f"{flow.name} was not started.",
            allow_retries=False,
        )


def too_late_to_retry(context: dg.OpExecutionContext, limit_seconds: int | None, delay_seconds: float) -> str | None:
    """The reason why an attempt that failed is not tried again, or None if there is time for that.

    Args:
        context: The op's context.
        limit_seconds: As for `run_seconds_left`.
        delay_seconds: The pause before the next attempt.
    """
    left = run_seconds_left(context, limit_seconds)
    if left > delay_seconds:
        return None
    return (
        f"It is not tried again: the run's time limit of {limit_seconds} s "
        f"{'is over' if left <= 0 else f'ends before the next attempt, in {delay_seconds:.0f} s'}."
    )
