"""A background process that runs a command which executes a Dagster run, and watches over it.

    python -m metaflow_pipes.runs.worker RUN_ID COMMAND...

It reports a run as failed whose process has died, and ends the process of a run that was canceled from elsewhere,
such as the Dagster UI. `DAGSTER_HOME` names the instance.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys

_POLL_SECONDS = 1.0


def main(run_id: str, command: list[str]) -> int:
    """Run the command to its end, and return its exit code.

    Args:
        run_id: The Dagster run that it executes.
        command: The command.
    """
    # first of all: the run needs a second to start, and Dagster needs as long to be imported here
    process = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, lambda *_: _pass_on(process))
    signal.signal(signal.SIGINT, lambda *_: _pass_on(process))

    import dagster as dg

    with dg.DagsterInstance.get() as instance:
        is_asked = False
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_SECONDS)
            run = instance.get_run_by_id(run_id)
            if not is_asked and (run is None or run.status.value in ("CANCELING", "CANCELED")):
                _pass_on(process)
                is_asked = True
        run = instance.get_run_by_id(run_id)
        if run is not None and not run.is_finished:
            how = f"signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"
            if run.status.value == "CANCELING":
                instance.report_run_canceled(run)
            else:
                instance.report_run_failed(run, f"The process that executed the run has ended with {how}.")
    return process.returncode


def _pass_on(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
