"""A Postgres server that the tests start, and end, by themselves."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Debian's packages don't put the server's programs on the PATH.
DEBIAN_FOLDERS = "usr/lib/postgresql/*/bin/initdb"
# Who runs the server where the tests run as root, for whom it would refuse to.
USERS = ("postgres", "nobody")
SECONDS_TO_START = 60


@dataclass
class Postgres:
    """A server that runs.

    Attributes:
        url: Where its one database is.
        log: The file to which it writes, with a line for each connection.
        start: Starts its process.
    """

    url: str
    log: Path
    start: Callable[[], subprocess.Popen[bytes]]
    _process: subprocess.Popen[bytes] | None = None

    def restart(self) -> None:
        """End it with all of its connections, as `pg_ctl restart -m fast`, unless it has not begun; and start it."""
        self.stop()
        starts = self._starts()
        self._process = self.start()
        give_up_at = time.monotonic() + SECONDS_TO_START
        while self._starts() == starts:
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < give_up_at, self.log.read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        """End it."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _starts(self) -> int:
        return self.log.read_text().count("ready to accept connections")

    def connection_count(self) -> int:
        """The number of connections that were ever made."""
        return self.log.read_text().count("connection authorized:")

    def open_count(self) -> int:
        """The number of connections that have not ended."""
        return self.connection_count() - self.log.read_text().count("disconnection:")


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Start a server with an empty database, and end it with the context."""
    programs = _programs()
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    log = folder / "log"
    user = _server_user()
    port = free_port()
    as_user: dict[str, Any] = {}
    if user is not None:
        shutil.chown(folder, user)
        as_user = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
    command = [
        programs / "initdb",
        "-D",
        folder / "data",
        "-U",
        "dagster",
        "-A",
        "trust",
        "-N",
        "--no-locale",
        "-E",
        "UTF8",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, **as_user)
    settings = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": folder, "fsync": "off"}
    settings |= {"log_connections": "on", "log_disconnections": "on"}
    options = [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
    log.touch()

    def start() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                [programs / "postgres", "-D", folder / "data", *options],
                cwd=folder,
                stdout=output,
                stderr=output,
                **as_user,
            )

    server = Postgres(f"postgresql://dagster@127.0.0.1:{port}/postgres", log, start)
    try:
        server.restart()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _server_user() -> str | None:
    """The user who runs the server; None is that of the tests."""
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(user for user in USERS if user in known) if os.geteuid() == 0 else None


def _programs() -> Path:
    """The folder of the server's programs."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).parent
    installed = sorted(Path("/").glob(DEBIAN_FOLDERS))
    assert installed, (
        "There is no Postgres server for the tests: install Debian's package `postgresql`, or another one."
    )
    return installed[-1].parent
