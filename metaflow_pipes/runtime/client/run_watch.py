"""A step ends with its run, also where the job's executor only forgets about it.

The executors of this package and Dagster's own interrupt their ops. Celery's revokes its tasks, which ends none that
has begun; and a worker far from the run's process does not see that die.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# How often a step asks what has become of its run.
ASK_SECONDS = 10
# The modules of executors that end the ops of a run that is to end: those are in the run's process, or its children.
INTERRUPTING = ("dagster.", "metaflow_pipes.runtime.executors.multiprocess", "metaflow_pipes.runtime.executors.threads")


class RunWatch:
    """Asks for the status of an op's run, if the job's executor does not end the ops of a run that is to end.

    A run is over that is being canceled, has ended, or was deleted. One whose process was lost has ended as soon as
    Dagster's run monitoring has seen that.

    Args:
        context: The op's context.
    """

    def __init__(self, context: dg.OpExecutionContext | dg.AssetExecutionContext):
        self._instance = context.instance
        self._run_id = context.run_id
        self._is_needed = not _interrupts(context.job_def.executor_def)
        self._is_stopped = threading.Event()
        self._is_over = False

    def check(self) -> None:
        """Ask now.

        Raises:
            dagster.DagsterExecutionInterruptedError: The run is over.
        """
        if self._is_needed:
            run = self._instance.get_run_by_id(self._run_id)
            self._is_over = run is None or run.is_finished or run.status == dg.DagsterRunStatus.CANCELING
        if self._is_over:
            raise dg.DagsterExecutionInterruptedError

    @contextlib.contextmanager
    def ends(self, end: Callable[[], None]) -> Iterator[None]:
        """Have something ended when the run is over.

        Args:
            end: Ends it; called from another thread, while the context is open.

        Raises:
            dagster.DagsterExecutionInterruptedError: The run is over.
        """
        if not self._is_needed:
            yield
            return
        thread = threading.Thread(target=self._ask, args=(end,), daemon=True, name="run-watch")
        thread.start()
        try:
            yield
        finally:
            self._is_stopped.set()
            thread.join()
        if self._is_over:
            raise dg.DagsterExecutionInterruptedError

    def _ask(self, end: Callable[[], None]) -> None:
        while not self._is_stopped.wait(ASK_SECONDS):
            try:
                self.check()
            except dg.DagsterExecutionInterruptedError:
                end()
                return
            except Exception:  # noqa: S112 - of any storage: it may be restarted, and is asked again
                continue


def _interrupts(executor: dg.ExecutorDefinition) -> bool:
    """Whether an executor, also a configured one, is known to end the ops of a run that is to end."""
    made_by = executor.executor_creation_fn
    return made_by is not None and made_by.__module__.startswith(INTERRUPTING)
