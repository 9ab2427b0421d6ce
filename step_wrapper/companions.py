"""The companions of a run: processes that its own process starts beside those of the steps, and what the two say.

They are the warm process, from which steps are forked, the cloners, the heartbeat and what fetches code. Both sides
import this, as the wire; it needs the standard library alone.
"""

# Annotations are no text here (`from __future__ import annotations`), which typing would compile, one by one.
from typing import TypedDict

# The messages between the run's process and a warm process, from which tasks are forked: whole packets. The first one
# says whether the warm process can be used.
READY = b"ready"
UNFIT = b"unfit:"
# By the socket of one task: its supervisor is there, and waits for the word to begin, or could not be forked; it has
# ended with this exit code, or is killed by a signal, which is a negative number.
FORKED = b"forked:"
NOT_FORKED = b"failed:"
GO = b"g"
ENDED = b"ended:"
# What goes with a request for a task: the task's socket, and its standard input, output and error.
FORK_DESCRIPTORS = 4
MAX_FORK_REQUEST_BYTES = 1 << 16
# The argument of a process that clones one task after another, in a run that resumes another, and its answer to each
# request: whether it has cloned the task and reported it, or whether the task's own process is to see to that. With a
# request go the task's standard output and error.
CLONES = "--clones"
CLONED = b"cloned"
NOT_CLONED = b"not cloned"
CLONE_DESCRIPTORS = 2
# The first argument of a process that sends the heartbeats of a Metaflow run; `HeartbeatOptions` are the second.
HEARTBEAT = "--heartbeat"
# The argument of a process that fetches the code package of a flow; the next one is a `CodeRequest`, as JSON.
FETCHES = "--fetch"
# The folder of a code package with modules that are not beside the flow file: Metaflow, which is left out, and others.
PACKAGED_MODULES = ".mf_code"
# The variables that each task has a value of its own for. A warm process is given them padded, as room for those.
TASK_VARIABLES = ("DAGSTER_PIPES_CONTEXT", "DAGSTER_PIPES_MESSAGES", "METAFLOW_RUN_ID")
PADDING = 1 << 9


class WarmOptions(TypedDict):
    """The argument of a warm process.

    Attributes:
        datastore: The type of the datastore of the tasks.
        flow_file: The flow file whose imports are done once, or None.
    """

    datastore: str
    flow_file: str | None


class HeartbeatOptions(TypedDict):
    """The argument of a process that sends the heartbeats of a run.

    Attributes:
        flow: The flow's name.
        run_id: The Metaflow run.
        metadata: The type of the metadata provider.
        script: The flow file.
    """

    flow: str
    run_id: str
    metadata: str
    script: str


class ForkRequest(TypedDict):
    """A request to a warm process: the task that it is to fork.

    Attributes:
        arguments: The whole command line, as of a process of its own.
        environment: The variables beside those that the warm process has.
    """

    arguments: list[str]
    environment: dict[str, str]


class CodeRequest(TypedDict):
    """The argument of a process that fetches a code package.

    Attributes:
        flow: The flow's name.
        datastore: The type of the datastore.
        datastore_root: Its root, an absolute path or a URL.
        sha: The SHA-1 digest of the package.
        metadata: How Metaflow reads it, as JSON.
        folder: The absolute path of the folder that it is extracted to. Those above it exist.
        file: The name of the flow file in it.
        fingerprint: `sha256:` and the digest of the flow file.
    """

    flow: str
    datastore: str
    datastore_root: str
    sha: str
    metadata: str
    folder: str
    file: str
    fingerprint: str
