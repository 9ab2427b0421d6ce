"""A Redis server that the tests start, restart, and end, by themselves."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from support import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS_TO_START = 60


@dataclass
class Redis:
    """A server that runs, and keeps what it has when it is restarted, as Debian's does.

    Attributes:
        folder: Where it keeps that.
        port: Its port.
    """

    folder: Path
    port: int
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        """The address of its first database."""
        return f"redis://127.0.0.1:{self.port}/0"

    def restart(self) -> None:
        """End it, and start it again."""
        self.stop()
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = {"bind": "127.0.0.1", "port": self.port, "dir": self.folder, "save": "3600 1"}
        options = [argument for name, value in settings.items() for argument in (f"--{name}", str(value))]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(["redis-server", *options], stdout=log, stderr=log)
        give_up_at = time.monotonic() + SECONDS_TO_START
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < give_up_at, (self.folder / "log").read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as client:
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
        return False


@contextlib.contextmanager
def running_redis() -> Iterator[Redis]:
    """Have a server as long as the context is open."""
    assert shutil.which("redis-server"), (
        "There is no Redis server for the tests: install Debian's package `redis-server`, or another one."
    )
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="redis-", ignore_cleanup_errors=True) as folder:
        server = Redis(Path(folder), port)
        try:
            server.start()
            yield server
        finally:
            server.stop()
