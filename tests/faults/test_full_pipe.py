"""Output that nobody reads any more does not hold up what watches over the step."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from typing import TYPE_CHECKING

from support import Project, execute, failure_description, failures

if TYPE_CHECKING:
    from collections.abc import Iterator

# Much more than the limits of the step and of what it writes, so that a step that waits for its reader ends at all.
READ_AFTER_SECONDS = 40


@contextlib.contextmanager
def _nobody_reads_stdout() -> Iterator[None]:
    """Have stdout of this process go into a pipe that is full, and is read from much later only."""
    reader, writer = os.pipe()
    flags = fcntl.fcntl(writer, fcntl.F_GETFL)
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    fcntl.fcntl(writer, fcntl.F_SETFL, flags)
    saved = os.dup(1)
    is_over = threading.Event()

    def read_at_last() -> None:
        is_over.wait(READ_AFTER_SECONDS)
        while os.read(reader, 1 << 16):
            pass

    last_resort = threading.Thread(target=read_at_last)
    last_resort.start()
    os.dup2(writer, 1)
    os.close(writer)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        is_over.set()
        last_resort.join()
        os.close(reader)


def test_time_limit_holds_and_the_logs_are_kept(project):
    flows: Project = project()
    flows.write(
        "flow.py",
        "import signal, sys\nfrom metaflow import FlowSpec, step, timeout\n\n"
        "class TalkingFlow(FlowSpec):\n    @timeout(seconds=1)\n    @step\n    def only(self):\n"
        # Metaflow's own timeout would end it otherwise
        "        signal.signal(signal.SIGALRM, signal.SIG_IGN)\n"
        "        print('out', flush=True)\n        print('err', file=sys.stderr, flush=True)\n"
        "        while True:\n            print('x' * 9999)\n\n"
        "if __name__ == '__main__':\n    TalkingFlow()\n",
    )
    job = flows.job("flow.py")
    started = time.monotonic()
    with _nobody_reads_stdout():
        result = execute(job)
    assert time.monotonic() - started < READ_AFTER_SECONDS
    (failed,) = failures(result, "only")
    assert "timed out after 1 s" in failure_description(failed)
    folder = flows.folder / f".metaflow/TalkingFlow/dagster-{result.run_id}/only/only"
    stdout, stderr = ((folder / f"0.runtime_{name}.log").read_text() for name in ("stdout", "stderr"))
    assert "out" in stdout
    assert stdout.count("x" * 9999) > 10
    assert "err" in stderr
    assert stderr.count("metaflow-pipes: nobody has read the step's stdout for 5 s") == 1
