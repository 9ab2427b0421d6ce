"""Decorators that `trigger --with` and `resume --with` give to one run of a flow that is compiled already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metaflow.decorators import StepDecorator, extract_step_decorator_from_decospec
from metaflow.user_decorators.user_step_decorator import StepMutator

from metaflow_pipes.errors import CompileError

if TYPE_CHECKING:
    from collections.abc import Iterable

# Decorators that the compiler turns into something of the op. Those that have the step launched elsewhere are asked
# when it is launched.
COMPILED_DECORATORS = frozenset({"catch", "conda", "environment", "parallel", "pypi", "resources", "retry", "timeout"})


def check_run_decospecs(decospecs: Iterable[str]) -> None:
    """Refuse decorators that would not act in a run of a compiled flow.

    Args:
        decospecs: The decorators, as in `run --with`.

    Raises:
        CompileError: A decorator acts outside of the step's process; names it, and says what to do.
        MetaflowException: There is no such decorator, or it does not take such values.
    """
    for spec in decospecs:
        decorator, _ = extract_step_decorator_from_decospec(spec)
        if not _acts_within_step(decorator):
            name = spec.partition(":")[0]
            raise CompileError(
                f"--with {spec}: @{name} can't be given to one run, because it says how Dagster launches a step, and "
                f"that is compiled. To give it to all runs, compile the flow with it: `dagster create --with {spec}`."
            )


def _acts_within_step(decorator: Any) -> bool:
    """Whether a decorator does all that it does in the process of the step."""
    if not isinstance(decorator, StepDecorator):
        # a mutator may attach any other decorator
        return not isinstance(decorator, StepMutator)
    retries = "step_task_retry_count"
    return decorator.name not in COMPILED_DECORATORS and getattr(type(decorator), retries) is getattr(
        StepDecorator, retries
    )
