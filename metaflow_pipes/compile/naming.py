"""The names of a Dagster job, of its ops, and of their functions in the generated file."""

from __future__ import annotations

import keyword
import re
from typing import TYPE_CHECKING

from metaflow_pipes.errors import CompileError
from metaflow_pipes.names import ASSET_OUTPUT

if TYPE_CHECKING:
    from collections.abc import Iterable


# What Dagster refuses as a name of an op or a job, beside Python's keywords.
RESERVED_NAMES = frozenset(
    [
        "context",
        "conf",
        "config",
        "meta",
        "arg_dict",
        "dict",
        "input_arg_dict",
        "output_arg_dict",
        "int",
        "str",
        "float",
        "bool",
        "input",
        "output",
        "type",
    ]
) | frozenset(keyword.kwlist)


# The names that a generated file defines or imports for itself.
MODULE_NAMES = frozenset(
    {"dg", "defs", "ASSETS", "EXECUTOR", "FLOW", "JOB", "METAFLOW_STEP_ENV", "PARTITIONS", "RESOURCES", "graph"}
    | {"CodePackage", "CompilerVersion", "MetaflowCheck", "MetaflowFlow", "MetaflowParameter", "MetaflowPartitions"}
    | {"MetaflowPipesClient", "MetaflowStep", "custom_executor", "custom_translator", "multiprocess", "threads"}
    | {
        "automation_sensor",
        "exit_hook_sensor",
        "flow_schedule",
        "notification_sensor",
        "on_kubernetes",
        "trigger_sensor",
    }
    | {"collect", "fan_out", "flow_assets", "gather", "partitions_def_of", "regroup", "route", "run_step", "step_outs"}
    | {"with_executor_config"}
)


_VALID_NAME = re.compile(r"[A-Za-z0-9_]+")


def job_name(flow: str, deployment_name: str, name: str | None, *, is_project: bool) -> str:
    """The name of a flow's job.

    Args:
        flow: The flow's name.
        deployment_name: With `@project`, that of project, branch and flow; else the flow's name.
        name: What the user asks for, or None for the default: the deployment's name.
        is_project: Whether the flow has `@project`.

    Raises:
        CompileError: Dagster or Metaflow does not allow the name.
    """
    if name is None:
        name = re.sub(r"[^A-Za-z0-9_]", "_", deployment_name)
        return f"{name}_" if name in RESERVED_NAMES else name
    if is_project:
        raise CompileError(
            f"--name can't be used with flow *{flow}*, because it has @project: the job's name is made of "
            "project, branch and flow. Use --branch or --production before `dagster` instead."
        )
    if not _VALID_NAME.fullmatch(name) or name in RESERVED_NAMES:
        raise CompileError(
            f"{name!r} can't be the name of a Dagster job. A name consists of letters A-Z and a-z, digits "
            f"and underscores, and is none of the words that Dagster or Python reserve "
            f"({', '.join(sorted(RESERVED_NAMES - frozenset(keyword.kwlist)))}, and Python's keywords)."
        )
    return name


def is_free_identifier(name: str) -> bool:
    """Whether a name can be that of the job's variable: an identifier that the generated file does not use itself."""
    is_taken = name in MODULE_NAMES or name.startswith(("op_", "collect_", "fan_out_", "gather_", "regroup_", "route_"))
    return name.isidentifier() and not is_taken


def definition_name(job: str, op: str) -> str:
    """The name of an op's definition, which no other job of a code location has; its node has the op's name as alias.

    Args:
        job: The job's name.
        op: The op's name: what step keys and the run config call it.
    """
    name = f"{job}__{op}"
    is_of_one_job = [name[:end] for end in range(1, len(name) - 2) if name.startswith("__", end)] == [job]
    # `b__c` of job A and `c` of job A__b: only where the job's name ends tells these apart
    return name if is_of_one_job else f"{name}__{len(job)}"


def op_names(steps: Iterable[str], taken: set[str]) -> dict[str, str]:
    """An op name for each step: the step's own where Dagster allows it, else with underscores behind it.

    Args:
        steps: The names of the flow's steps.
        taken: Names that are taken already: that of the job.
    """
    steps = list(steps)
    taken = taken | RESERVED_NAMES | {ASSET_OUTPUT}
    names: dict[str, str] = {}
    # the steps that can keep their names come first, so that no escaped name takes one of theirs
    for step in sorted(steps, key=lambda step: (step in taken or not _VALID_NAME.fullmatch(step), step)):
        name = re.sub(r"[^A-Za-z0-9_]", lambda match: f"_x{ord(match.group()):x}", step)
        while name in taken:
            name += "_"
        taken.add(name)
        names[step] = name
    return names
