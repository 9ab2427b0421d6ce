"""Decorators that have a step launched in another way, and the process that then waits for it: told without a cost."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

from metaflow.decorators import StepDecorator
from metaflow.plugins.environment_decorator import EnvironmentDecorator
from metaflow.plugins.parallel_decorator import ParallelDecorator

# The hooks by which a decorator changes the command of a step.
HOOKS = ("runtime_step_cli", "runtime_step_cli_ctx")
# Those that do so, too, but for what the op and the wrapper see to themselves.
KNOWN = (EnvironmentDecorator, ParallelDecorator)


def changes_launch(decorator: Any) -> bool:
    """Whether a decorator may change the command of a step."""
    own = type(decorator)
    return not isinstance(decorator, KNOWN) and any(
        getattr(own, hook, None) is not getattr(StepDecorator, hook, None) for hook in HOOKS
    )


def own_interpreter(environment: Any, step: str) -> list[str] | None:
    """The command of the interpreter that uv has for a step's project; None if that is this one, or there is none.

    Args:
        environment: Metaflow's environment.
        step: The step's name.
    """
    if environment.TYPE != "uv":
        return None
    here = Path.cwd()
    project = next((folder for folder in (here, *here.parents) if (folder / "uv.lock").is_file()), here)
    if (project / os.environ.get("UV_PROJECT_ENVIRONMENT", ".venv")).resolve() == Path(sys.prefix).resolve():
        return None
    return shlex.split(environment.executable(step))
