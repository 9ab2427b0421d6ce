"""Output that nobody reads any more does not hold up what watches over the step."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from typing import TYPE_CHECKING

from metaflow.mflog.mflog import merge_logs
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


# Metaflow's own timeout would end it otherwise. It says how much it has written, also of what it is given time for.
TALKING = """
import os, signal
from metaflow import FlowSpec, step, timeout


class TalkingFlow(FlowSpec):
    @timeout(seconds=1)
    @step
    def only(self):
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        terminations = []
        signal.signal(signal.SIGTERM, lambda *_: terminations.append(1))
        os.write(2, b"err\\n")
        number = after = 0
        while after < 50:
            line = b"%06d" % number + b"x" * 9999 + b"\\n"
            while line:
                line = line[os.write(1, line) :]
            number += 1
            after += len(terminations)
        with open("written", "w") as file:
            file.write(str(number))
        os._exit(1)


if __name__ == "__main__":
    TalkingFlow()
"""


def test_time_limit_holds_and_the_logs_are_kept(project):
    flows: Project = project()
    flows.write("flow.py", TALKING)
    job = flows.job("flow.py")
    started = time.monotonic()
    with _nobody_reads_stdout():
        result = execute(job)
    assert time.monotonic() - started < READ_AFTER_SECONDS
    (failed,) = failures(result, "only")
    assert "timed out after 1 s" in failure_description(failed)
    folder = flows.folder / f".metaflow/TalkingFlow/dagster-{result.run_id}/only/only"
    stdout, stderr = (messages((folder / f"0.runtime_{name}.log").read_bytes()) for name in ("stdout", "stderr"))
    written = int((flows.folder / "written").read_text())
    assert stdout == [f"{number:06}" + "x" * 9999 for number in range(written)]
    assert "err" in stderr
    assert sum("metaflow-pipes: nobody has read the step's stdout for 5 s" in line for line in stderr) == 1


def messages(log: bytes) -> list[str]:
    """The lines of a log of Metaflow's."""
    return [line.msg.decode() for line in merge_logs([log])]
