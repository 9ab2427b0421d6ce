"""The command line and environment of a forked process, as others see them in `ps` and `/proc` (Linux only).

The kernel shows the memory in which a process was given them when its program began. A forked process has a copy of
that memory, and writes its own into it, where room was left: a padded argument, and padded variables.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# The fields of /proc/<pid>/stat, counted behind the name, that say where arguments and environment begin and end.
_ARGUMENTS_START, _ARGUMENTS_END, _ENVIRONMENT_START, _ENVIRONMENT_END = range(48 - 3, 52 - 3)


class ProcessImage(NamedTuple):
    """The memory of this process that others see.

    Attributes:
        arguments: Where the command line is, as an address and a length in bytes.
        variables: The same of each padded variable, with its name.
    """

    arguments: tuple[int, int]
    variables: Mapping[str, tuple[int, int]]

    @classmethod
    def of_this_process(cls, padded: Sequence[str]) -> ProcessImage:
        """The memory of this process, which loses the padded variables.

        Args:
            padded: The names of the variables that it was given as room for others.
        """
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        start, end = int(fields[_ENVIRONMENT_START]), int(fields[_ENVIRONMENT_END])
        memory = b"\0" + ctypes.string_at(start, end - start)
        variables: dict[str, tuple[int, int]] = {}
        for name in padded:
            at = memory.find(f"\0{name}=".encode())
            if at >= 0:
                variables[name] = start + at, memory.index(b"\0", at + 1) - at - 1
            os.environ.pop(name, None)
        arguments = int(fields[_ARGUMENTS_START])
        return cls((arguments, int(fields[_ARGUMENTS_END]) - arguments), variables)

    def become(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Have this command line, and these variables beside those that it has.

        Args:
            arguments: The whole command line. Where there is too little room, others see its beginning.
            environment: The variables. Others see those that there is room for.
        """
        _write(*self.arguments, b"\0".join(os.fsencode(argument) for argument in arguments))
        sys.orig_argv[:] = arguments
        for name, value in environment.items():
            os.environ[name] = value
            text = os.fsencode(f"{name}={value}")
            address, length = self.variables.get(name, (0, 0))
            if len(text) <= length:
                _write(address, length, text)


def _write(address: int, length: int, text: bytes) -> None:
    """Write a text into memory that keeps a zero as its last byte, and zeros behind the text."""
    text = text[: length - 1] if len(text) > length else text
    ctypes.memset(address, 0, length)
    ctypes.memmove(address, text, len(text))
