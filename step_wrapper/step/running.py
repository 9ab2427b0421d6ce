"""The task that runs in this process: what the wrapper and Metaflow's decorator hook tell each other."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

    from step_wrapper.launch import Launch
    from step_wrapper.step.resume import Index

# What the step's process tells the supervisor, a byte each.
CODE_STARTS = b"s"
CODE_ENDS = b"e"
STEP_ENDS = b"x"
REPORTED = b"r"
# Tells the workers of `num_parallel` where the parameters of a resumed run are: `Flow/run_id/_parameters/task_id`.
PARAMETERS_VARIABLE = "METAFLOW_PIPES_PARAMETERS"


@dataclass
class RunningTask:
    """The attempt that runs in this process.

    Attributes:
        launch: The attempt.
        control: The socket to the supervisor.
        index: What is known of the run that its run resumes; None if it resumes none.
        cloned_from: The pathspec of the task that it is a clone of, if it is one.
        next_steps: The steps that follow it in the graph.
        is_switch: Whether it goes on to one of them.
        has_cards: Whether it has a `@card`.
        inherited: The artifacts of its input tasks, each name with the keys of its values.
        exception: What its code raised, if it did.
    """

    launch: Launch
    control: socket.socket
    index: Index | None = None
    cloned_from: str | None = None
    next_steps: list[str] | None = None
    is_switch: bool = False
    has_cards: bool = False
    inherited: dict[str, set[str]] = field(default_factory=dict)
    exception: BaseException | None = None

    def tell(self, message: bytes) -> None:
        """Tell the supervisor something; a supervisor that has gone doesn't matter to the step."""
        with contextlib.suppress(OSError):
            self.control.sendall(message)


# The task of this process; None in processes that the wrapper did not make, such as those that render cards.
current: RunningTask | None = None
