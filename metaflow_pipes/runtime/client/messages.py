"""The two files of a Pipes session: what a step is told, and what it reports, which must break nothing here."""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster_pipes import PipesDefaultContextLoader, PipesDefaultMessageWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dagster import PipesMessageHandler
    from dagster_pipes import PipesContextData, PipesParams

# How long a message may wait before it is read while the step runs.
POLL_SECONDS = 0.1
# Dagster keeps what is reported for ever, and loads it with its run.
MAX_MESSAGE_BYTES = 1_000_000
MAX_WARNING_CHARACTERS = 500
CHUNK_BYTES = 1 << 20
# How Pipes calls a message of the step's own.
CUSTOM_METHOD = "report_custom_message"


class ContextInjector(dg.PipesContextInjector):
    """Tells one process its context by a file, which like its temporary folder only this user can read.

    It names parameters and configs; `dagster.PipesTempFileContextInjector` leaves the file's mode to the umask.
    """

    @contextlib.contextmanager
    def inject_context(self, context_data: PipesContextData) -> Iterator[PipesParams]:
        """Have the file as long as the context is open.

        Args:
            context_data: What the process is told.

        Yields:
            Where the process finds it, as `dagster_pipes.PipesDefaultContextLoader` takes it.
        """
        with _private_file("context") as path:
            path.write_text(json.dumps(context_data), encoding="utf-8")
            yield {PipesDefaultContextLoader.FILE_PATH_KEY: str(path)}

    def no_messages_debug_text(self) -> str:
        """The way by which the context was told."""
        return "Attempted to inject context via a temporary file."


class MessageReader(dg.PipesMessageReader):
    """Reads the messages of one process from a file in a private temporary folder.

    `dagster.PipesTempFileMessageReader` stops reading at the first message that it can't use, takes a half-written
    line for one, and looks a hundred times a second. This one says what it could not use, and goes on.

    Args:
        publish: Takes each custom message as soon as it is read, and says whether it was an event, which is then no
            message for others; None for no such function.
    """

    def __init__(self, publish: Callable[[Any], bool] | None = None):
        self._publish = publish

    @property
    def expected_writer_count(self) -> int:
        """One: a step has one supervisor."""
        return 1

    @contextlib.contextmanager
    def read_messages(self, handler: PipesMessageHandler) -> Iterator[PipesParams]:
        """Read messages as long as the context is open, and those that are there when it is closed.

        Args:
            handler: Takes the messages.

        Yields:
            Where the process writes its messages, as `dagster_pipes.PipesDefaultMessageWriter` takes it.
        """
        with _private_file("messages") as path:
            is_closed = threading.Event()
            reader = threading.Thread(target=_read_all, args=(path, self._taking(handler), is_closed), daemon=True)
            reader.start()
            try:
                yield {
                    PipesDefaultMessageWriter.FILE_PATH_KEY: str(path),
                    PipesDefaultMessageWriter.INCLUDE_STDIO_IN_MESSAGES_KEY: False,
                }
            finally:
                is_closed.set()
                reader.join()

    def no_messages_debug_text(self) -> str:
        """The place where messages were looked for."""
        return "Attempted to read messages from a temporary file."

    def _taking(self, handler: PipesMessageHandler) -> Callable[[Any], None]:
        """The function that takes a message: an event is published, and the handler has the others."""

        def take(message: Any) -> None:
            is_custom = message["method"] == CUSTOM_METHOD
            if self._publish is None or not is_custom or not self._publish(message["params"]["payload"]):
                handler.handle_message(message)

        return take


@contextlib.contextmanager
def _private_file(name: str) -> Iterator[Path]:
    """An empty file in a temporary folder of its own, both for this user only."""
    with tempfile.TemporaryDirectory(prefix="metaflow-pipes-", ignore_cleanup_errors=True) as folder:
        path = Path(folder, name)
        path.touch(mode=0o600)
        yield path


def _read_all(path: Path, take: Callable[[Any], None], is_closed: threading.Event) -> None:
    lines = _Lines(path)
    is_last = False
    while not is_last:
        is_last = is_closed.wait(POLL_SECONDS)
        for line in lines.new(is_last=is_last):
            _handle(line, take)


class _Lines:
    """The lines of a file that grows, and that the step could delete, replace, cut or flood.

    Args:
        path: The file.
    """

    def __init__(self, path: Path):
        self._path = path
        self._inode: int | None = None
        self._position = 0
        self._partial = b""

    def new(self, *, is_last: bool) -> Iterator[bytes]:
        """The lines that have been completed since the last call; in the last call also one that has not.

        Of a line that is too long, its first part and its last one are given, so that neither is a message.
        """
        with contextlib.suppress(OSError):
            for chunk in self._chunks():
                *lines, self._partial = (self._partial + chunk).split(b"\n")
                yield from filter(None, lines)
                if len(self._partial) > MAX_MESSAGE_BYTES:
                    yield self._partial
                    self._partial = b"..."
        if is_last and self._partial:
            yield self._partial

    def _chunks(self) -> Iterator[bytes]:
        stat = self._path.stat()
        if stat.st_ino != self._inode or stat.st_size < self._position:
            self._inode, self._position, self._partial = stat.st_ino, 0, b""
        if stat.st_size == self._position:
            return
        with self._path.open("rb") as file:
            file.seek(self._position)
            while chunk := file.read(CHUNK_BYTES):
                self._position += len(chunk)
                yield chunk


def _handle(line: bytes, take: Callable[[Any], None]) -> None:
    try:
        if len(line) > MAX_MESSAGE_BYTES:
            raise ValueError(f"it is longer than {MAX_MESSAGE_BYTES} bytes")
        take(json.loads(line))
    except Exception as error:  # of any kind: the message may be whatever the step's code has written
        text = f"A message that the step sent to Dagster can't be used: {type(error).__name__}: {error}"
        warning: Any = {"method": "log", "params": {"message": text[:MAX_WARNING_CHARACTERS], "level": "warning"}}
        take(warning)
