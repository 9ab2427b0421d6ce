"""`current.trigger`: the events that have triggered the run, as the step's code asks for them."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from step_wrapper.step.running import RunningTask

# Tells the workers of `num_parallel`, which are no tasks of the wrapper's.
TRIGGERS_VARIABLE = "METAFLOW_PIPES_TRIGGERS"


def show(task: RunningTask | None, *, is_control: bool) -> None:
    """Let the step's code see what has triggered its run.

    Args:
        task: The task of this process; None in a worker of `num_parallel`.
        is_control: Whether it starts workers.
    """
    if task is None:
        triggers = json.loads(os.environ.get(TRIGGERS_VARIABLE, "[]"))
    else:
        triggers = task.launch.triggers
        os.environ.pop(TRIGGERS_VARIABLE, None)  # of a step whose code has started this run
        if is_control and triggers:
            os.environ[TRIGGERS_VARIABLE] = json.dumps(triggers)
    if triggers:
        from metaflow import current
        from metaflow.events import Trigger

        current._update_env({"trigger": Trigger(triggers)})
