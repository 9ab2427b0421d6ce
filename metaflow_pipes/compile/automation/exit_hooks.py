"""`@exit_hook`: the sensor that runs the hooks of a flow's runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metaflow_pipes.compile.job_model import AutomationModel

if TYPE_CHECKING:
    from metaflow_pipes.compile.flow_model import FlowModel
    from metaflow_pipes.compile.job_options import JobOptions


def exit_hook_sensors(flow: FlowModel, job: str, options: JobOptions) -> tuple[AutomationModel, ...]:
    """The sensor of a flow with exit hooks; none for any other.

    Args:
        flow: The flow.
        job: The job's name.
        options: The options of the job.
    """
    hooks = flow.exit_hooks
    arguments: dict[str, Any] = {}
    after = []
    for outcome, names, end in (("on_success", hooks.on_success, "success"), ("on_error", hooks.on_error, "failure")):
        if names:
            arguments[outcome] = list(names)
            after.append(f"{', '.join(names)} after a {end}")
    if not arguments:
        return ()
    if hooks.timeout_seconds is not None:
        arguments["timeout_seconds"] = hooks.timeout_seconds
    if options.paused:
        arguments["paused"] = True
    return (AutomationModel(f"{job}_exit_hooks", "exit_hook_sensor", arguments, f"runs {' and '.join(after)}"),)
