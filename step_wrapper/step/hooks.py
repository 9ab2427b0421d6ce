"""Decorators that have a step launched in another way, and the process that then waits for it: told without a cost."""

from __future__ import annotations

from typing import Any

from metaflow.decorators import StepDecorator
from metaflow.plugins.environment_decorator import EnvironmentDecorator
from metaflow.plugins.parallel_decorator import ParallelDecorator

# The hooks by which a decorator changes the command of a step.
HOOKS = ("runtime_step_cli", "runtime_step_cli_ctx")
# Those that do so, too, but for what the op and the wrapper see to themselves.
KNOWN = (EnvironmentDecorator, ParallelDecorator)
# In the environment of the process that waits for a job: the variables that the job gets beside those of
# `@environment`, as JSON.
TRAMPOLINE_VARIABLE = "METAFLOW_PIPES_TRAMPOLINE"


def changes_launch(decorator: Any) -> bool:
    """Whether a decorator may change the command of a step."""
    own = type(decorator)
    return not isinstance(decorator, KNOWN) and any(
        getattr(own, hook, None) is not getattr(StepDecorator, hook, None) for hook in HOOKS
    )
