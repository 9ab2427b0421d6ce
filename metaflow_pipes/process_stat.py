"""A process as the kernel of Linux shows it in `/proc/<pid>/stat`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class ProcessStat(NamedTuple):
    """The kernel's figures of a process.

    Attributes:
        state: One letter; `Z` of a process that has ended, and has not been waited for.
        parent: The process id of its parent.
        session: The process id of the leader of its session.
        cpu_ticks: The CPU that it has taken itself, in ticks of the clock (`os.sysconf("SC_CLK_TCK")`).
        start_time: When it started, in ticks since the kernel did.
    """

    state: str
    parent: int
    session: int
    cpu_ticks: int
    start_time: str


def process_stat(pid: int | str) -> ProcessStat | None:
    """The kernel's figures of a process; None if there is none, or no `/proc`."""
    try:
        text = Path("/proc", str(pid), "stat").read_bytes()
    except OSError:
        return None
    # the name of the program, in brackets, may hold anything; what is behind it are the fields from the third on
    fields = text.rpartition(b")")[2].decode("ascii").split()
    return ProcessStat(fields[0], int(fields[1]), int(fields[3]), int(fields[11]) + int(fields[12]), fields[19])
