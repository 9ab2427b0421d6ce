"""Checks of the options of `create` and `DagsterCompiler` that need no flow, and of those that name steps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from metaflow_pipes.compile.automation.notifications import check_notifications
from metaflow_pipes.compile.job_options import FromRunEnvironment
from metaflow_pipes.compile.option_values import check_tags, check_types, check_workflow_timeout
from metaflow_pipes.compile.partitions import check_partition_options
from metaflow_pipes.errors import CompileError
from metaflow_pipes.names import KUBERNETES_CHOICES, WARM_STARTS

if TYPE_CHECKING:
    from metaflow_pipes.compile.job_options import JobOptions


# The levels of `logging` at which records of the steps can start to be sent to Dagster.
LOG_LEVELS = ("debug", "info", "warning", "error", "critical", "off")

# The types of the options that have one. A boolean is no number here, though Python takes it for one.
_TYPES = {
    "name": str,
    "namespace": str,
    "kubernetes": str,
    "max_workers": int,
    "executor": str,
    "log_level": str,
    "translator": str,
    "workflow_timeout": int,
    "paused": bool,
    "notify_on_error": bool,
    "notify_on_success": bool,
    "notify_slack_webhook_url": str,
    "notify_webhook_url": str,
    "notify_email": str,
    "max_concurrent_runs": int,
    "priority": int,
    "warm": str,
    "automation": str,
    "partition_format": str,
    "package": bool,
}
# What Dagster stores of a priority: 32 bits.
MAX_PRIORITY = 2**31 - 1

# As `dagster._core.definitions.op_definition.VALID_POOL_NAME_REGEX`.
_POOL_NAME = re.compile(r"\S+")


def check_options(options: JobOptions) -> None:
    """Check all that can be said of the options without the flow, and without importing what they name.

    Raises:
        CompileError: An option can't be used; names it and says what is allowed.
    """
    check_types({option: getattr(options, option) for option in _TYPES}, _TYPES)
    for option in ("executor", "log_level"):
        if getattr(options, option) is None:
            raise CompileError(f"{option} is None, but has to be of type str. Leave it out for the default.")
    check_tags(options.tags)
    _check_step_env(options.step_env)
    if options.kubernetes not in (None, *KUBERNETES_CHOICES):
        raise CompileError(f"--kubernetes is {options.kubernetes!r}. Use one of {', '.join(KUBERNETES_CHOICES)}.")
    if options.max_workers is not None and options.max_workers < 1:
        raise CompileError(f"--max-workers is {options.max_workers}, but at least one step must be able to run.")
    if options.log_level.lower() not in LOG_LEVELS:
        raise CompileError(f"--log-level is {options.log_level!r}. Use one of {', '.join(LOG_LEVELS)}.")
    if options.warm not in WARM_STARTS:
        raise CompileError(f"--warm is {options.warm!r}. Use one of {', '.join(WARM_STARTS)}.")
    check_workflow_timeout(options.workflow_timeout)
    check_notifications(options)
    check_partition_options(options)
    if options.max_concurrent_runs is not None and options.max_concurrent_runs < 1:
        raise CompileError(
            f"--max-concurrent-runs is {options.max_concurrent_runs}, but at least one run has to be allowed. To start "
            "none, use --paused."
        )
    if options.priority is not None and abs(options.priority) > MAX_PRIORITY:
        raise CompileError(f"--priority is {options.priority}. Use a number from -{MAX_PRIORITY} to {MAX_PRIORITY}.")
    for option in ("schedule_parameters", "pools", "executor_config"):
        value = getattr(options, option)
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise CompileError(f"{option} is {value!r}, but has to be a mapping of names to values.")


def check_pools(pools: Mapping[str, str], flow: str, steps: Sequence[str]) -> None:
    """Check the pools of a flow's steps.

    Args:
        pools: For each step that has one, its pool.
        flow: The flow's name.
        steps: The names of its steps.

    Raises:
        CompileError: The flow has no such step, or Dagster takes no such pool.
    """
    for step, pool in pools.items():
        if step not in steps:
            raise CompileError(
                f"--pool names the step {step}, which flow *{flow}* does not have. Its steps are {', '.join(steps)}."
            )
        if not isinstance(pool, str) or _POOL_NAME.fullmatch(pool) is None:
            raise CompileError(
                f"--pool gives step *{step}* the pool {pool!r}, but the name of a Dagster pool is not empty, and "
                "has no spaces."
            )


def concurrent_runs(max_concurrent_runs: int | None, *, no_overlap: bool) -> int | None:
    """The number of runs that can be under way, by `--max-concurrent-runs` or `--no-overlap`.

    Raises:
        CompileError: Both are given.
    """
    if no_overlap and max_concurrent_runs is not None:
        raise CompileError(
            "--no-overlap and --max-concurrent-runs are given, but the first is the same as --max-concurrent-runs 1. "
            "Give one of them."
        )
    return 1 if no_overlap else max_concurrent_runs


def _check_step_env(step_env: Mapping[str, str | FromRunEnvironment]) -> None:
    if not isinstance(step_env, Mapping):
        raise CompileError(f"step_env is {step_env!r}, but has to be a mapping of names to values.")
    for name, value in step_env.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise CompileError(
                f"The step_env variable {name!r} has no usable name. Write --step-env KEY=VALUE, or "
                "--step-env KEY for a value that the run's environment holds; a name is not empty and holds no '='."
            )
        if not isinstance(value, (str, FromRunEnvironment)):
            raise CompileError(
                f"The step_env variable {name} is a {type(value).__name__}, but environment variables are "
                "strings. Use str(...), or json.dumps(...) for a structured value."
            )
        if isinstance(value, str) and "\0" in value:
            raise CompileError(f"The step_env variable {name} has a value with a NUL character.")
