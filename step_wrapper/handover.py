"""The facts that a step's process leaves its supervisor when it becomes another command, as Metaflow's hooks ask."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

_FILE = "handover.json"
# In the environment of the process that waits for a job: the variables that the job gets beside those of
# `@environment`, as JSON.
TRAMPOLINE_VARIABLE = "METAFLOW_PIPES_TRAMPOLINE"


class Handover(NamedTuple):
    """A step whose code runs in another process than that which has read its request.

    Attributes:
        system: The group of Metaflow's commands that runs it elsewhere, such as `kubernetes` or `batch`; None if the
            code runs below the supervisor, by another interpreter.
        namespace: The namespace of Kubernetes, or None.
        kill: The command that ends the jobs of the run there, if the system has one; else None.
        next_steps: The steps that follow it in the graph.
        is_switch: Whether it goes on to one of them.
        has_cards: Whether it has a `@card`.
        folders: Temporary folders that it needs, and that nobody else removes.
    """

    system: str | None
    namespace: str | None
    kill: list[str] | None
    next_steps: list[str]
    is_switch: bool
    has_cards: bool
    folders: list[str]

    def write(self, folder: Path) -> None:
        """Leave it in the attempt's private folder."""
        path = folder / _FILE
        path.touch(mode=0o600)
        path.write_text(json.dumps(self._asdict()))

    @classmethod
    def read(cls, folder: Path) -> Handover:
        """Read it from the attempt's private folder."""
        return cls(**json.loads((folder / _FILE).read_text()))
