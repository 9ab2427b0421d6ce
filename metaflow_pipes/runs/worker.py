"""A background process that runs a command which executes a Dagster run, and watches over it.

    python -m metaflow_pipes.runs.worker RUN_ID END_OP LOG FOLLOWED_BY COMMAND...

It prints the number of the process of that command, which begins when this process reads a line: then the run says by
which processes it is executed. It reports a run as failed whose process has died or whose last step never ran, and ends
the process of a run that was canceled from elsewhere, such as the Dagster UI. Then it runs the flow's exit hooks, and
sends its messages. `DAGSTER_HOME` names the instance.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from metaflow_pipes.runs.service import left_out
from metaflow_pipes.runs.worker_log import ending_of

if TYPE_CHECKING:
    import dagster as dg

_POLL_SECONDS = 1.0
# Waits for the line, which does not come if the launch fails, and becomes the command without changing its number.
_WHEN_TOLD = ["/bin/sh", "-c", 'read -r _ && exec "$@" </dev/null', "run-worker"]


def main(run_id: str, end_op: str, log: str, followed_by: str, command: list[str]) -> int:
    """Run the command to its end, and return its exit code.

    Args:
        run_id: The Dagster run that it executes.
        end_op: The op of the flow's last step.
        log: The path of the file that stderr goes to.
        followed_by: The definitions file, if something is to be done after the run; else empty.
        command: The command.
    """
    # first of all: the run needs a second to start, and Dagster needs as long to be imported here
    process = subprocess.Popen([*_WHEN_TOLD, *command], stdout=sys.stderr)
    is_asked = False

    def ask_to_end(*_: object) -> None:
        """Ask once: at a second signal, Dagster no longer waits for the step that it is ending."""
        nonlocal is_asked
        if not is_asked:
            is_asked = True
            process.terminate()

    signal.signal(signal.SIGTERM, ask_to_end)
    signal.signal(signal.SIGINT, ask_to_end)
    print(process.pid, flush=True)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    import dagster as dg
    from sqlalchemy.exc import SQLAlchemyError

    with dg.DagsterInstance.get() as instance:
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_SECONDS)
            # a database that does not answer for a while is no reason to leave the run alone
            with contextlib.suppress(SQLAlchemyError):
                run = instance.get_run_by_id(run_id)
                if not is_asked and (run is None or run.status.value in ("CANCELING", "CANCELED")):
                    ask_to_end()
        run = instance.get_run_by_id(run_id)
        if run is not None and not run.is_finished:
            if run.status.value == "CANCELING":
                instance.report_run_canceled(run)
            else:
                instance.report_run_failed(run, _reason(process.returncode, log))
        elif run is not None and run.is_success and not _has_run(instance, run_id, end_op):
            instance.report_run_failed(run, left_out(end_op))
        if followed_by:
            from metaflow_pipes.runs.ended import follow_up

            follow_up(instance, run_id, followed_by)
    return process.returncode


def _has_run(instance: dg.DagsterInstance, run_id: str, op: str) -> bool:
    return any(stats.end_time is not None for stats in instance.get_run_step_stats(run_id, [op]))


def _reason(exit_code: int, log: str) -> str:
    if exit_code < 0:
        return f"The process that executed the run has ended with signal {-exit_code}. Its output is in {log}."
    return f"The process that executed the run has ended with exit code {exit_code}. {ending_of(log)}"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:5], command=sys.argv[5:]))
