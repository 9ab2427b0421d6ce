"""The step's output: passed on as it comes, and kept in Metaflow's log format (`metaflow.mflog`)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import stat
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CHUNK_BYTES = 1 << 18
# What a pipe holds, and what it is made to hold where that proves too little.
PIPE_BYTES = 1 << 16
LARGE_PIPE_BYTES = 1 << 20
# How long what is left in a pipe may take to be taken.
DRAIN_SECONDS = 5
# How long the reader of what is passed on may hold up the supervisor, which has time limits to keep.
PASS_ON_SECONDS = 5
# How much of a log's end is read for a tail.
TAIL_BYTES = 1 << 16
STREAMS = ("stdout", "stderr")
# The forms of a line of another log: as it is passed on, to which descriptor, as it is kept (None if it is kept
# elsewhere), and whether that has a mark of Metaflow's log format.
Translated = tuple[bytes, int, "bytes | None", bool]
# Lines of the same time are ordered by their ids, so these count upwards; a new time starts them again.
_IDS = [b"|%03d]" % number for number in range(1000)]


class StreamLog:
    """One stream of the step: reads its pipe, passes the bytes on, and writes the same lines to a file.

    Args:
        name: `stdout` or `stderr`.
        pipe: The reading end of the pipe that the step writes to; becomes non-blocking.
        passes_to: The file descriptor that gets the bytes as they are, as long as somebody takes them.
        folder: Where the log file is made.
        on_unread: Called once if nobody takes them.
    """

    def __init__(self, name: str, pipe: int, passes_to: int, folder: Path, on_unread: Callable[[str], None]):
        self.name = name
        self.pipe = pipe
        self._pipe_bytes = PIPE_BYTES
        self._passes_to = passes_to
        self._patience_seconds = PASS_ON_SECONDS
        self._on_unread: Callable[[str], None] | None = on_unread
        # nobody else's to read, as the folder is
        descriptor = os.open(log_path(folder, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._file = os.fdopen(descriptor, "wb")
        self._is_in_line = False
        self._last_time = 0
        self._translate: Callable[[bytes], Translated] | None = None
        self._partial = b""
        os.set_blocking(pipe, False)

    def translate(self, translate: Callable[[bytes], Translated]) -> None:
        """From now on, pass on and keep each line in other forms than that in which it comes.

        Args:
            translate: Gives these forms of a line, which has no newline.
        """
        self._translate = translate

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
        if len(chunk) > self._pipe_bytes // 2:
            self._enlarge_pipe()
        if self._translate is None:
            self._take(chunk)
        else:
            *lines, self._partial = (self._partial + chunk).split(b"\n")
            self._take_translated(lines, self._translate)
        return len(chunk)

    def _take(self, chunk: bytes) -> None:
        self._pass_on(chunk, self._passes_to)
        with contextlib.suppress(OSError):
            self._keep(chunk)

    def _take_translated(self, lines: list[bytes], translate: Callable[[bytes], Translated]) -> None:
        for line in lines:
            shown, passes_to, stored, is_marked = translate(line)
            self._pass_on(shown + b"\n", passes_to)
            if stored is not None:
                with contextlib.suppress(OSError):
                    (self._file.write if is_marked else self._keep)(stored + b"\n")

    def note(self, message: str) -> None:
        """Add a message of the supervisor's to what the step has written.

        Args:
            message: One line.
        """
        self._take(b"\n" * self._is_in_line + _as_line(message))

    def has_room_after(self, taken: int) -> bool:
        """Whether the step writes so little at a time that its pipe can be left alone for a moment.

        Args:
            taken: The size of the last chunk.
        """
        return taken < self._pipe_bytes // 4

    def drain(self) -> None:
        """Take what is in the pipe now, and write the file to its end.

        A process that nobody can end may go on writing: it is not waited for.
        """
        give_up_at = time.monotonic() + DRAIN_SECONDS
        while self.pump() and time.monotonic() < give_up_at:
            pass
        if self._partial and self._translate is not None:
            line, self._partial = self._partial, b""
            self._take_translated([line], self._translate)
        self.flush()

    def flush(self) -> int:
        """Have all that was taken in the file, and return the file's size in bytes."""
        with contextlib.suppress(OSError):
            self._file.flush()
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Close the pipe and the file."""
        os.close(self.pipe)
        with contextlib.suppress(OSError):
            self._file.close()

    def _pass_on(self, chunk: bytes, passes_to: int) -> None:
        """Pass a chunk on, or drop what is left of it where nobody takes it.

        Whoever did not take the last one is not waited for, but gets what comes if they read again.
        """
        is_taken = True
        with contextlib.suppress(OSError):
            is_taken = _write_within(passes_to, chunk, self._patience_seconds)
        self._patience_seconds = PASS_ON_SECONDS if is_taken else 0
        if not is_taken and self._on_unread is not None:
            on_unread, self._on_unread = self._on_unread, None
            on_unread(self.name)

    def _enlarge_pipe(self) -> None:
        """Let the step write more before it has to wait (Linux only).

        Only pipes that need it: what all pipes of a user may hold is limited.
        """
        if sys.platform == "linux" and self._pipe_bytes < LARGE_PIPE_BYTES:
            with contextlib.suppress(OSError):
                self._pipe_bytes = fcntl.fcntl(self.pipe, fcntl.F_SETPIPE_SZ, LARGE_PIPE_BYTES)

    def _keep(self, chunk: bytes) -> None:
        """Write a chunk to the file, with Metaflow's mark before each line."""
        if self._is_in_line:
            rest, newline, chunk = chunk.partition(b"\n")
            self._file.write(rest + newline)
            self._is_in_line = not newline
        if not chunk:
            return
        lines = chunk.split(b"\n")
        self._is_in_line = lines[-1] != b""
        if not self._is_in_line:
            lines.pop()
        # no code of ours runs for each line: a step can write millions in a second
        for start in range(0, len(lines), len(_IDS)):
            batch = lines[start : start + len(_IDS)]
            parts = [b"\n" + self._mark()] * (3 * len(batch))
            if start == 0:
                parts[0] = parts[0][1:]
            parts[1::3] = _IDS[: len(batch)]
            parts[2::3] = batch
            self._file.write(b"".join(parts))
        if not self._is_in_line:
            self._file.write(b"\n")

    def _mark(self) -> bytes:
        """The mark of lines that come now, up to their ids, with a time that no other mark has."""
        # clocks are set back at times
        self._last_time = max(time.time_ns() // 1000, self._last_time + 1)
        seconds, microseconds = divmod(self._last_time, 1_000_000)
        day_and_time = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        return b"[MFLOG|0|%s.%06dZ|runtime" % (day_and_time.encode(), microseconds)


def say(message: str) -> None:
    """Write a message of the supervisor's to its stderr, where it can be read.

    Args:
        message: One line.
    """
    with contextlib.suppress(OSError):
        _write_within(2, _as_line(message), PASS_ON_SECONDS)


def flush_output() -> None:
    """Write what Python still holds of this process's output, before the process ends without being torn down."""
    for stream in (sys.stdout, sys.stderr):
        # the step's code may have closed or replaced them
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()


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


def _as_line(message: str) -> bytes:
    return f"metaflow-pipes: {message}\n".encode()


def _write_within(descriptor: int, data: bytes, seconds: float) -> bool:
    """Write to a descriptor, which may be a pipe that nobody reads.

    Args:
        descriptor: The descriptor. It stays as it is, blocking or not: other processes share it.
        data: The bytes.
        seconds: How long that may take.

    Returns:
        Whether all was written.
    """
    view = memoryview(data)
    # files don't block; a pipe that has room has it for so much at once
    size = len(data) if stat.S_ISREG(os.fstat(descriptor).st_mode) else select.PIPE_BUF
    give_up_at = time.monotonic() + seconds
    while view:
        if not select.select([], [descriptor], [], max(0.0, give_up_at - time.monotonic()))[1]:
            return False
        with contextlib.suppress(BlockingIOError):
            view = view[os.write(descriptor, view[:size]) :]
    return True
