"""The error of everything that the user of the compiler can mend."""

from __future__ import annotations


class CompileError(Exception):
    """A flow or an option from which no definitions file can be made.

    The message says what is wrong, where (flow, step, decorator or option), and how to mend it. On the command
    line it becomes a `MetaflowException`: one message and exit code 1.
    """
