"""Processes of a host, told from others of the same number by their start time, boot id and PID namespace.

    ann-laptop/b1e0bd56-b98e-42b2-ae11-80c974207c60/4026531836/4242.1827364+4243.1827370/<Dagster run id>

is a run worker as a tag of its run notes it: host, boot id, PID namespace, and each process with its start time.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metaflow_pipes.process_stat import process_stat

if TYPE_CHECKING:
    import signal

_BOOT_ID_FILE = "/proc/sys/kernel/random/boot_id"


@dataclass(frozen=True)
class HostProcess:
    """A process of this host.

    Attributes:
        pid: Its number.
        started: When it started, as the kernel tells it.
    """

    pid: int
    started: str

    @property
    def is_alive(self) -> bool:
        """Whether it is there, and not only another process of its number."""
        return start_time(self.pid) == self.started

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it is still there.

        Raises:
            PermissionError: It is another user's.
        """
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


@dataclass(frozen=True)
class RunWorker:
    """The background processes of a run: the one that watches over it, and the one that executes it.

    Attributes:
        host: The name of their host.
        boot_id: The host's id from one start of its kernel to the next; empty where it has none.
        namespace: The PID namespace in which they have their numbers; empty where there are none.
        processes: The processes; none if no version of this package has noted them.
    """

    host: str
    boot_id: str = ""
    namespace: str = ""
    processes: tuple[HostProcess, ...] = ()

    @classmethod
    def of(cls, *pids: int) -> RunWorker:
        """The run worker that consists of these processes of this host."""
        processes = tuple(HostProcess(pid, start_time(pid) or "") for pid in pids)
        return cls(platform.node(), boot_id(), pid_namespace(), processes)

    @classmethod
    def from_tag(cls, value: str, dagster_run_id: str) -> RunWorker | None:
        """The worker that a tag names; None if it is that of another run, of which Dagster has copied the tags."""
        host, *fields = value.split("/")
        if fields[-1:] != [dagster_run_id]:
            return None
        if len(fields) != 4:  # that of version 0.1, or of a run that is about to be started
            return cls(host)
        boot, namespace, listed, _ = fields
        pairs = [process.partition(".") for process in listed.split("+")]
        return cls(host, boot, namespace, tuple(HostProcess(int(pid), started) for pid, _, started in pairs))

    def tag(self, dagster_run_id: str) -> str:
        """The worker as a tag of its run."""
        listed = "+".join(f"{process.pid}.{process.started}" for process in self.processes)
        return "/".join([self.host, *([self.boot_id, self.namespace, listed] if listed else []), dagster_run_id])

    @property
    def unseen_because(self) -> str | None:
        """The reason why its processes can't be seen from here, or None if they can."""
        if self.host != platform.node():
            return f"They are on {self.host}."
        if not self.processes:
            return f"Which processes of {self.host} they are is not noted."
        if self.boot_id != boot_id():
            return f"{self.host} has been restarted since, or is another host of the same name."
        if self.namespace != pid_namespace():
            return f"They are in another PID namespace of {self.host}, such as that of a container."
        return None

    @property
    def living(self) -> tuple[HostProcess, ...]:
        """The processes of it that are seen here to be alive."""
        return () if self.unseen_because else tuple(process for process in self.processes if process.is_alive)

    @property
    def numbers(self) -> str:
        """The numbers of its processes, for people: `4242 and 4243`."""
        return " and ".join(str(process.pid) for process in self.processes)


@functools.cache
def boot_id() -> str:
    """The id of this host from one start of its kernel to the next; empty where it has none."""
    if sys.platform == "darwin":
        return _output_of("/usr/sbin/sysctl", "-n", "kern.bootsessionuuid")
    try:
        return Path(_BOOT_ID_FILE).read_text(encoding="ascii").strip()
    except OSError:
        return ""


@functools.cache
def pid_namespace() -> str:
    """The number of the PID namespace of this process; empty where there are none."""
    try:
        return re.sub(r"\D", "", str(Path("/proc/self/ns/pid").readlink()))
    except OSError:
        return ""


def start_time(pid: int) -> str | None:
    """The start time of a process, as the kernel tells it; None if there is no such process, or soon none."""
    if sys.platform == "darwin":
        return re.sub(r"\W+", "_", _output_of("/bin/ps", "-o", "lstart=", "-p", str(pid))) or None
    stat = process_stat(pid)
    return None if stat is None or stat.state == "Z" else stat.start_time


def _output_of(*command: str) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout.strip()
