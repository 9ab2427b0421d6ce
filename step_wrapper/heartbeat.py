"""A process that sends the heartbeats of one Metaflow run (`python -m step_wrapper --heartbeat OPTIONS`).

Metaflow's own runner sends them as long as it runs, so that a run is not taken for dead while none of its tasks runs.
This process does the same for the process of a Dagster run. Its standard input is a socket to that process, and at the
socket's end it ends.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
from typing import TYPE_CHECKING, Any

import requests
from metaflow.metaflow_config import SERVICE_HEADERS
from metaflow.plugins.metadata_providers.service import ServiceMetadataProvider

from step_wrapper import companions
from step_wrapper.processes import set_killed_at_end_of
from step_wrapper.report.registration import SERVICE_SECONDS, SERVICE_VARIABLE, open_provider
from step_wrapper.step import garbage
from step_wrapper.variables import seconds_of

if TYPE_CHECKING:
    from collections.abc import Callable

# After how long the next heartbeat is sent if the service has not said it, in seconds.
AGAIN_SECONDS = 5


def serve() -> int:
    """Send heartbeats until the run's process closes its end of the socket, or dies, and return the exit code."""
    garbage.collect_as_usual()
    options = companions.HeartbeatOptions(**json.loads(sys.argv[2]))
    with socket.socket(fileno=os.dup(sys.stdin.fileno())) as end:
        set_killed_at_end_of(end, True)
        provider = open_provider(options["metadata"], options["flow"], script=options["script"])
        if isinstance(provider, ServiceMetadataProvider):
            url = provider.url_run_template.format(flow_id=options["flow"], run_number=options["run_id"])
            most_seconds = seconds_of(SERVICE_VARIABLE, SERVICE_SECONDS)
            _send_until(end, lambda: _send(url, most_seconds))
            _send(url, most_seconds)
        elif _send_until(end, lambda: _let_send(provider, options)) is None:
            provider.stop_heartbeat()
    return 0


def _send_until(end: socket.socket, send: Callable[[], float | None]) -> float | None:
    """Send heartbeats until the other end of a socket is closed, and return what the last one has returned.

    Args:
        end: The socket.
        send: Sends one, and returns after how many seconds the next one is due; None if whoever sends sees to that.
    """
    while True:
        set_killed_at_end_of(end, True)
        wait_seconds = send()
        set_killed_at_end_of(end, False)
        if _is_over(end, wait_seconds):
            return wait_seconds


def _send(url: str, most_seconds: float) -> float:
    """Send a heartbeat to Metaflow's service, and return after how many seconds the next one is due.

    Metaflow's own process for heartbeats takes an answer for a failure that only says that it was too early, since a
    task has just sent one for its run, too; it waits longer after each, and so for minutes when all tasks have ended.
    """
    headers: Any = SERVICE_HEADERS
    try:
        answer = requests.post(url, data="{}", headers=headers, timeout=most_seconds)
        # JSON within JSON
        return float(json.loads(answer.json())["wait_time_in_seconds"]) or AGAIN_SECONDS
    except (requests.RequestException, ValueError, TypeError, KeyError):
        return AGAIN_SECONDS


def _let_send(provider: Any, options: companions.HeartbeatOptions) -> float | None:
    """Let any other metadata provider begin to send; if it can't, return after how many seconds to try again."""
    try:
        provider.start_run_heartbeat(options["flow"], options["run_id"])
    except Exception as error:  # of any kind: providers, also those of extensions, raise their own
        print(f"metaflow-pipes: no heartbeats of run {options['run_id']}: {error}", file=sys.stderr)
        return AGAIN_SECONDS
    return None


def _is_over(end: socket.socket, seconds: float | None) -> bool:
    """Whether the run's process closes its end of a socket within some seconds; None is any time."""
    poll = select.poll()
    poll.register(end, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))
