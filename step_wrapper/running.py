"""The task that runs in this process: what the wrapper and Metaflow's decorator hook tell each other."""

from __future__ import annotations

import contextlib
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from types import TracebackType

    from step_wrapper.launch import Launch

# What the step's process tells the supervisor, a byte each.
CODE_STARTS = b"s"
CODE_ENDS = b"e"
STEP_ENDS = b"x"
REPORTED = b"r"


@dataclass
class RunningTask:
    """The attempt that runs in this process.

    Attributes:
        launch: The attempt.
        control: The socket to the supervisor.
        next_steps: The steps that follow it in the graph.
        is_switch: Whether it goes on to one of them.
        inherited: The artifacts of its input tasks, each name with the keys of its values.
        exception: What its code raised, if it did.
    """

    launch: Launch
    control: socket.socket
    next_steps: list[str] | None = None
    is_switch: bool = False
    inherited: dict[str, set[str]] = field(default_factory=dict)
    exception: BaseException | None = None

    def tell(self, message: bytes) -> None:
        """Tell the supervisor something; a supervisor that has gone doesn't matter to the step."""
        with contextlib.suppress(OSError):
            self.control.sendall(message)

    def described_exception(self) -> str | None:
        """The exception as `Type: message`, or None."""
        if self.exception is None:
            return None
        format_message = getattr(self.exception, "format_message", None)
        if callable(format_message):  # click's errors name the option there alone
            return f"{type(self.exception).__name__}: {format_message()}"
        return "".join(traceback.format_exception_only(self.exception)).strip()

    def user_traceback(self) -> str:
        """The traceback of the exception from the first frame that is the user's own; empty if none is."""
        if self.exception is None:
            return ""
        shown = skip_framework(self.exception.__traceback__)
        if shown is None:
            return ""
        return "".join(traceback.format_exception(type(self.exception), self.exception, shown)).rstrip()


def skip_framework(frames: TracebackType | None) -> TracebackType | None:
    """A traceback from its first frame that is neither Metaflow's nor the wrapper's; None if there is none."""
    while frames is not None and is_framework(frames):
        frames = frames.tb_next
    return frames


def is_framework(frame: TracebackType) -> bool:
    """Whether a frame of a traceback is Metaflow's or the wrapper's."""
    file = Path(frame.tb_frame.f_code.co_filename)
    packages = [sys.modules[__package__ or ""], sys.modules.get("metaflow")]
    return any(
        package is not None and package.__file__ is not None and file.is_relative_to(Path(package.__file__).parent)
        for package in packages
    )


# The task of this process; None in processes that the wrapper did not make, such as those that render cards.
current: RunningTask | None = None
