"""A process that sends the heartbeats of one Metaflow run (`python -m step_wrapper --heartbeat OPTIONS`).

Metaflow's own runner sends them as long as it runs, so that a run is not taken for dead while none of its tasks runs.
This process does the same by the same hook of the metadata provider, for the process of a Dagster run. Its standard
input is a socket to that process, and at the socket's end it ends.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys

from step_wrapper import companions
from step_wrapper.processes import set_killed_at_end_of
from step_wrapper.report.registration import open_provider
from step_wrapper.step import garbage

# After how long the service is asked again that could not be reached when the heartbeats were to begin. Once they have
# begun, Metaflow sees to that.
AGAIN_SECONDS = 5


def serve() -> int:
    """Send heartbeats until the run's process closes its end of the socket, or dies, and return the exit code."""
    garbage.collect_as_usual()
    options = companions.HeartbeatOptions(**json.loads(sys.argv[2]))
    with socket.socket(fileno=os.dup(sys.stdin.fileno())) as end:
        provider = open_provider(options["metadata"], options["flow"], script=options["script"])
        while True:
            set_killed_at_end_of(end, True)
            try:
                provider.start_run_heartbeat(options["flow"], options["run_id"])
            except Exception as error:  # of any kind: providers, also those of extensions, raise their own
                print(f"metaflow-pipes: no heartbeats of run {options['run_id']}: {error}", file=sys.stderr)
                wait_seconds = AGAIN_SECONDS
            else:
                wait_seconds = None
            set_killed_at_end_of(end, False)
            if _is_over(end, wait_seconds):
                break
        if wait_seconds is None:
            provider.stop_heartbeat()
    return 0


def _is_over(end: socket.socket, seconds: float | None) -> bool:
    """Whether the run's process closes its end of a socket within some seconds; None is any time."""
    poll = select.poll()
    poll.register(end, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))
