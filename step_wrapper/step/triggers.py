"""`current.trigger`: the events that have triggered the run, as the step's code asks for them."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from metaflow_extensions.metaflow_pipes.plugins.given import TRIGGERS_VARIABLE, show_triggers

if TYPE_CHECKING:
    from step_wrapper.step.running import RunningTask


def show(task: RunningTask | None, *, is_control: bool) -> None:
    """Let the step's code see what has triggered its run.

    Args:
        task: The task of this process; None in a worker of `num_parallel`.
        is_control: Whether it starts workers.
    """
    if task is None:
        show_triggers()
        return
    triggers = task.launch.triggers
    os.environ.pop(TRIGGERS_VARIABLE, None)  # of a step whose code has started this run
    if is_control and triggers:
        os.environ[TRIGGERS_VARIABLE] = json.dumps(triggers)
    show_triggers(triggers)
