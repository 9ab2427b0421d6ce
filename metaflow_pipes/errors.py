"""The errors of everything that the user can mend."""

from __future__ import annotations


class CompileError(Exception):
    """A flow or an option from which no definitions file can be made.

    The message says what is wrong, where (flow, step, decorator or option), and how to mend it. On the command
    line it becomes a `MetaflowException`: one message and exit code 1.
    """


class DeploymentError(Exception):
    """A deployment that is not there, can't be read, or is not the caller's to change.

    As with `CompileError`, the message says what, where, and how to mend it.
    """


class ProductionTokenError(DeploymentError):
    """A deployment of another user is about to be changed without its production token."""


class PartitionError(Exception):
    """A partition that is not there, or whose key can't be the value of a parameter.

    The message is a clause, for a sentence that says what can't be done.
    """


class VerbatimError(CompileError):
    """A flow can't run on Dagster, and the message has stars that stand for themselves, as in a cron expression.

    Metaflow's command line takes stars for emphasis, and does not show them.
    """
