"""The step's output: passed on as it comes, and kept in Metaflow's log format (`metaflow.mflog`)."""

from __future__ import annotations

import contextlib
import os
import select
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

CHUNK_BYTES = 1 << 18
# How much of a log's end is read for a tail.
TAIL_BYTES = 1 << 16
STREAMS = ("stdout", "stderr")


class StreamLog:
    """One stream of the step: reads its pipe, passes the bytes on, and writes the same lines to a file.

    Args:
        name: `stdout` or `stderr`.
        pipe: The reading end of the pipe that the step writes to; becomes non-blocking.
        passes_to: The file descriptor that gets the bytes as they are.
        folder: Where the log file is made.
    """

    def __init__(self, name: str, pipe: int, passes_to: int, folder: Path):
        self.pipe = pipe
        self._passes_to = passes_to
        self._file = log_path(folder, name).open("wb")
        self._partial_line: list[bytes] = []
        self._lines = 0
        os.set_blocking(pipe, False)

    def pump(self) -> int | None:
        """Take one chunk from the pipe, and return its size: 0 at the pipe's end, None if there is nothing now.

        Reading goes on whatever happens to the other side, so that the step is never blocked by its own output.
        """
        try:
            chunk = os.read(self.pipe, CHUNK_BYTES)
        except BlockingIOError:
            return None
        if not chunk:
            return 0
        with contextlib.suppress(OSError):
            _write_all(self._passes_to, chunk)
        first, *others = chunk.split(b"\n")
        self._partial_line.append(first)
        if others:
            *lines, last = others
            lines.insert(0, b"".join(self._partial_line))
            self._partial_line = [last]
            with contextlib.suppress(OSError):
                self._keep(lines)
        return len(chunk)

    def drain(self) -> None:
        """Take what is in the pipe now, and write the file to its end."""
        while self.pump():
            pass
        with contextlib.suppress(OSError):
            last = b"".join(self._partial_line)
            if last:
                self._keep([last])
                self._partial_line = []
            self._file.flush()

    def close(self) -> None:
        """Close the pipe and the file."""
        os.close(self.pipe)
        with contextlib.suppress(OSError):
            self._file.close()

    def _keep(self, lines: list[bytes]) -> None:
        now = time.time()
        stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1e6):06d}"
        # lines of the same time are ordered by their ids, so these count upwards
        self._file.write(
            b"".join(
                b"[MFLOG|0|%sZ|runtime|%012d]%s\n" % (stamp.encode(), number, line)
                for number, line in enumerate(lines, self._lines)
            )
        )
        self._lines += len(lines)


def log_path(folder: Path, stream: str) -> Path:
    """The file of a stream's log."""
    return folder / f"{stream}.log"


def tail(path: Path, lines: int) -> str:
    """The last lines of a log file, as a terminal shows them: without the marks of Metaflow's format.

    Args:
        path: The log file.
        lines: How many lines.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        kept = file.read().rstrip(b"\n").split(b"\n")[-lines:]
    return "\n".join(_as_shown(line) for line in kept)


def _as_shown(line: bytes) -> str:
    # the first line may have been cut, and its mark with it
    text = line.partition(b"]")[2] if line.startswith(b"[MFLOG|") else line
    # a progress bar writes over itself
    return text.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace")


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select([], [descriptor], [])
