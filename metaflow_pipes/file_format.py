"""The format of generated definitions files: the one that is written, and those that this version serves.

Needs neither Dagster nor Metaflow: both the definitions files themselves and the commands that only read them ask.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass

from metaflow_pipes.errors import DeploymentError

# Counts up when files are written that an earlier version can't serve. Those of release 0.1, which is format 1, do not
# name theirs.
FORMAT = 3


@dataclass(frozen=True)
class CompilerVersion:
    """The version of metaflow-pipes that has written a definitions file, as the file itself tells it.

    It is the first thing that the file says about its flow, so that nothing of a later format is tried before.

    Attributes:
        version: The version of metaflow-pipes.
        format: The format of the file.

    Raises:
        DeploymentError: The file is of a format that the installed version does not know.
    """

    version: str
    format: int

    def __post_init__(self) -> None:
        if self.format > FORMAT:
            raise DeploymentError(
                f"The definitions file was compiled by metaflow-pipes {self.version}, in format {self.format}. "
                f"metaflow-pipes {installed_version()}, which is installed here, knows formats up to {FORMAT}. Upgrade "
                f"it to {self.version}, or compile the flow again with it: python flow.py dagster create"
            )


def current_version() -> CompilerVersion:
    """The installed version, for a file that it writes."""
    return CompilerVersion(installed_version(), FORMAT)


def installed_version() -> str:
    """The version of metaflow-pipes that is installed."""
    return importlib.metadata.version("metaflow-pipes")
