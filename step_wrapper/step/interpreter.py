"""The end of the interpreter as the step's code sees it; the process itself goes on, to store and to report."""

from __future__ import annotations

import atexit
import contextlib
import sys
import threading
import traceback
from typing import TYPE_CHECKING

from step_wrapper.logs import flush_output

if TYPE_CHECKING:
    from collections.abc import Iterator

# By these, Python's own modules refuse thread and process pools from the end of the interpreter on.
_CLOSED_FLAGS = (
    ("threading", "_SHUTTING_DOWN"),
    ("concurrent.futures.thread", "_shutdown"),
    ("concurrent.futures.process", "_global_shutdown"),
)


def finish() -> None:
    """Do as an interpreter does at its end, before teardown: wait for threads, run exit handlers, flush."""
    with _reopened_at_the_end():
        # Python's own function: it lets go of threads that wait for the main one, and drains pools
        finishers = [threading._shutdown, atexit._run_exitfuncs]  # pyright: ignore[reportAttributeAccessIssue]
        # multiprocessing's helpers end when their parent does, so that they are no processes left behind
        for module, helper in (("forkserver", "_forkserver"), ("resource_tracker", "_resource_tracker")):
            loaded = sys.modules.get(f"multiprocessing.{module}")
            if loaded is not None:
                finishers.append(getattr(loaded, helper)._stop)
        for call in finishers:
            try:
                call()
            except BaseException:  # as Python does: one that fails or exits keeps none of the others from running
                traceback.print_exc()
    flush_output()


@contextlib.contextmanager
def _reopened_at_the_end() -> Iterator[None]:
    """Let pools be used again behind this context: storages of Metaflow's need them, as boto3 does.

    Within it the step's code sees them closed, as at the end of every interpreter.
    """
    yield
    for module, flag in _CLOSED_FLAGS:
        if module in sys.modules:
            setattr(sys.modules[module], flag, False)
