"""Decorators of a step that say how its tasks are launched, limited, repeated and checked: a part of stage 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metaflow.decorators import StepDecorator
from metaflow.exception import MetaflowException
from metaflow.metaflow_config import MAX_ATTEMPTS
from metaflow.plugins.environment_decorator import EnvironmentDecorator
from metaflow.plugins.parallel_decorator import ParallelDecorator
from metaflow.plugins.retry_decorator import RetryDecorator
from metaflow.plugins.timeout_decorator import TimeoutDecorator

from metaflow_pipes.compile.flow_model import CheckModel
from metaflow_pipes.errors import CompileError

if TYPE_CHECKING:
    from collections.abc import Iterable


# The hooks by which a decorator has the step launched in another way.
_LAUNCH_HOOKS = ("runtime_step_cli", "runtime_step_cli_ctx")


def _changes_launch(decorator: Any) -> bool:
    """Whether a decorator has the step launched by another command, in a process or on a system of its own."""
    return not isinstance(decorator, (EnvironmentDecorator, ParallelDecorator)) and any(
        getattr(type(decorator), hook, None) is not getattr(StepDecorator, hook, None) for hook in _LAUNCH_HOOKS
    )


def read_launchers(state: Any, step: str, decorators: Iterable[Any]) -> tuple[str, ...]:
    """The decorators that have a step launched in another way, all of which can be used.

    Raises:
        CompileError: They can't be used; names the decorator.
    """
    decorators = list(decorators)
    names_of_launchers = []
    for decorator in decorators:
        if not _changes_launch(decorator) or getattr(decorator, "disabled", False):
            continue
        # Metaflow attaches a @conda for each @pypi, and the user has not written it
        names = {other.name for other in decorators if other.statically_defined}
        name = "pypi" if decorator.name == "conda" and "conda" not in names and "pypi" in names else decorator.name
        where = f"Step *{step}* of flow *{state.flow.name}* has the decorator @{name}"
        if decorator.name in ("conda", "pypi") and not _has_micromamba(state.environment):
            raise CompileError(
                f"{where}: Metaflow makes the step's environment by micromamba, which is not here. Install it, and set "
                "METAFLOW_PATH_TO_MICROMAMBA to its path where it is not on the PATH, also where the steps run."
            )
        if any(isinstance(other, ParallelDecorator) for other in decorators):
            raise CompileError(
                f"{where} and starts parallel tasks (num_parallel), which is not supported on Dagster: those of "
                "several nodes are started by the one that this decorator launches elsewhere. Use a foreach for them."
            )
        try:
            if decorator.package_init_ctx is not None:
                decorator.package_init_ctx(step)
            else:
                decorator.package_init(state.flow, step, state.environment)
        except MetaflowException as error:
            raise CompileError(f"{where}, which can't be used here: {error}") from None
        names_of_launchers.append(name)
    return tuple(names_of_launchers)


def _has_micromamba(environment: Any) -> bool:
    """Whether the environment of `@conda` and `@pypi` finds micromamba, which it would else load from the internet."""
    micromamba = getattr(environment, "solvers", {}).get("conda")
    return micromamba is None or getattr(micromamba, "_bin", "") is not None


def read_retries(flow: str, step: str, decorators: list[Any]) -> tuple[int, int]:
    """User code retries and error retries, combined as `metaflow.runtime.Task` combines them.

    Raises:
        CompileError: They are more than Metaflow holds attempts of a task.
    """
    counts = [decorator.step_task_retry_count() for decorator in decorators]
    if any(count == (None, None) for count in counts):
        return 0, 0
    user_code_retries = max((0, *(user for user, _ in counts)))
    error_retries = max((0, *(error for _, error in counts)))
    fallback = 1 if error_retries else 0
    if 1 + user_code_retries + fallback > MAX_ATTEMPTS:
        raise CompileError(
            f"Step *{step}* of flow *{flow}* asks for {user_code_retries} retries, but Metaflow holds at most "
            f"{MAX_ATTEMPTS} attempts of a task (the first one, its retries"
            f"{', and the fallback of @catch' if fallback else ''}). Lower the `times` of @retry to "
            f"{MAX_ATTEMPTS - 1 - fallback} or less."
        )
    return user_code_retries, min(error_retries, MAX_ATTEMPTS - 1 - user_code_retries)


def read_retry_delay_seconds(flow: str, step: str, decorators: list[Any]) -> int:
    """The pause of `@retry` before each retry of a step, or 0.

    Raises:
        CompileError: It is no number.
    """
    for decorator in decorators:
        if isinstance(decorator, RetryDecorator):
            minutes = decorator.attributes["minutes_between_retries"]
            try:
                return max(0, round(float(minutes) * 60))
            except (TypeError, ValueError):
                raise CompileError(
                    f"Step *{step}* of flow *{flow}*: @retry has minutes_between_retries={minutes!r}, "
                    "which is not a number."
                ) from None
    return 0


def read_timeout_seconds(decorators: list[Any]) -> int | None:
    """The limit of `@timeout` for each attempt of a step, or None."""
    return next((decorator.secs for decorator in decorators if isinstance(decorator, TimeoutDecorator)), None)


def read_environment(flow: str, step: str, decorators: list[Any]) -> dict[str, str]:
    """The variables of all `@environment` decorators of a step, the later ones first in rank, as in Metaflow.

    Raises:
        CompileError: They are no mapping of names to strings or numbers; names the step and the variable.
    """
    merged: dict[str, str] = {}
    for decorator in decorators:
        if not isinstance(decorator, EnvironmentDecorator):
            continue
        variables = decorator.attributes["vars"]
        if not hasattr(variables, "items"):
            raise CompileError(
                f"Step *{step}* of flow *{flow}*: @environment needs vars={{name: value}}, got {variables!r}."
            )
        for key, value in variables.items():
            where = f"Step *{step}* of flow *{flow}*, @environment variable {key!r}"
            if not isinstance(key, str) or not key or "=" in key or "\0" in key:
                raise CompileError(f"{where}: a name must be a non-empty string without '=' and NUL.")
            if value is not None and not isinstance(value, (str, int, float)):
                raise CompileError(
                    f"{where} is a {type(value).__name__}, but environment variables are strings. "
                    "Use json.dumps(...) for a structured value and json.loads(...) in the step."
                )
            if "\0" in str(value):
                raise CompileError(f"{where}: a value can't hold a NUL character.")
            merged[key] = str(value)
    return merged


def read_resources(decorators: list[Any]) -> dict[str, str]:
    """The attributes of `@resources` of a step that have a value, as strings; none without it."""
    for decorator in decorators:
        if decorator.name == "resources":
            return {key: str(value) for key, value in decorator.attributes.items() if value is not None}
    return {}


def read_checks(decorators: list[Any]) -> tuple[CheckModel, ...]:
    """The asset checks that the decorators of a step declare, in the order in which they stand above it."""
    return tuple(
        CheckModel(
            name=decorator.attributes["name"],
            blocking=bool(decorator.attributes["blocking"]),
            description=decorator.attributes["description"],
        )
        for decorator in reversed(decorators)
        if decorator.name == "dagster_check"
    )
