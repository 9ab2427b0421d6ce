"""The sensor that evaluates the automation conditions of a flow's assets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from metaflow_pipes.runtime.assets.specs import assets_of

if TYPE_CHECKING:
    from metaflow_pipes.runtime.flow import MetaflowFlow


def automation_sensor(
    flow: MetaflowFlow, job: dg.JobDefinition, *, paused: bool = False, description: str | None = None
) -> dg.AutomationConditionSensorDefinition:
    """The sensor that materializes a flow's assets when their automation conditions say so.

    It is called `<job>_automation`. Assets that it does not cover are left to Dagster's own sensor, which somebody has
    to start.

    Args:
        flow: The flow.
        job: Its job.
        paused: Whether the sensor is stopped until somebody starts it.
        description: The sensor's description in the UI.
    """
    return dg.AutomationConditionSensorDefinition(
        automation_sensor_name(job.name),
        target=dg.AssetSelection.assets(*[spec.key for spec in assets_of(flow).values()]),
        default_status=dg.DefaultSensorStatus.STOPPED if paused else dg.DefaultSensorStatus.RUNNING,
        description=description,
    )


def automation_sensor_name(job: str) -> str:
    """The name of the sensor for the assets of a job's flow."""
    return f"{job}_automation"
