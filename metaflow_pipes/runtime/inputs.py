"""The tasks that a task takes, as Metaflow's command is told of them."""

from __future__ import annotations

import base64
import os
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from metaflow_pipes.runtime.places import is_split, parse_item, parse_split, tasks_of

if TYPE_CHECKING:
    from collections.abc import Mapping


# How many characters of input paths an event shows as they are.
LONGEST_INPUT_PATHS = 500
# What tells Metaflow that a task starts others (`metaflow.unbounded_foreach.UBF_CONTROL`).
CONTROL_ARGUMENT = "--ubf-context=ubf_control"


@dataclass(frozen=True)
class Inputs:
    """The tasks that a task takes, and what Metaflow must be told about them.

    Attributes:
        paths: Each `run_id/step/task_id`; none for the start step.
        arguments: Arguments of Metaflow's `step` command.
        environment: Variables of the task's process.
    """

    paths: list[str]
    arguments: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, upstream: list[str]) -> Inputs:
        """The tasks of what an op takes.

        Args:
            upstream: The values, as in `metaflow_pipes.runtime.places`.
        """
        if len(upstream) == 1 and (item := parse_item(upstream[0])) is not None:
            path, index = item
            if index is not None:
                return cls([path], [f"--split-index={index}"])
            return cls([path], [CONTROL_ARGUMENT], _control_environment())
        if len(upstream) == 1 and is_split(upstream[0]):
            path, size = parse_split(upstream[0])
            # as `metaflow.plugins.parallel_decorator` asks of the runner
            arguments = [CONTROL_ARGUMENT, "--split-index=0", f"--num-parallel={size}"]
            return cls([path], arguments, _control_environment())
        return cls(tasks_of(upstream), [])


def shortened(argument: str) -> str:
    """An argument of Metaflow's command; the paths of many inputs as Metaflow compresses them (`compress_list`)."""
    option, _, value = argument.partition("=")
    if option != "--input-paths" or len(value) <= LONGEST_INPUT_PATHS:
        return argument
    return f"{option}=!{base64.b64encode(zlib.compress(zlib.compress(value.encode()))).decode()}"


def _control_environment() -> dict[str, str]:
    """The PATH of a control task: Metaflow starts its workers with the first `python` there."""
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    return {"PATH": os.pathsep.join(folders)}
