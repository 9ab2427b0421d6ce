"""The step decorator `dagster_internal` where `step_wrapper` is not installed: it does nothing."""

from __future__ import annotations

from metaflow.decorators import StepDecorator


class DagsterInternalDecorator(StepDecorator):
    """Stands for the decorator of `step_wrapper` in the commands of steps."""

    name = "dagster_internal"
