"""A background process for a follow-up of a run, which outlives the sensor's tick that has started it.

    python -m metaflow_pipes.runtime.automation

It takes from stdin, pickled, what `start` sends: the instance, the run, and the follow-up.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import TYPE_CHECKING

import dagster as dg

from metaflow_pipes.runtime.automation.follow_ups import follow_up_on

if TYPE_CHECKING:
    from metaflow_pipes.runtime.automation.follow_ups import FollowUp


def start(instance: dg.DagsterInstance, run_id: str, follow_up: FollowUp) -> subprocess.Popen[bytes]:
    """Start the process.

    Args:
        instance: The Dagster instance.
        run_id: The Dagster run.
        follow_up: The follow-up.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "metaflow_pipes.runtime.automation"],
        stdin=subprocess.PIPE,
        stdout=sys.stderr,
        start_new_session=True,
    )
    assert process.stdin is not None
    with process.stdin:
        process.stdin.write(pickle.dumps((instance.get_ref(), run_id, follow_up)))
    return process


def main() -> None:
    """Do what `start` asks for."""
    reference, run_id, follow_up = pickle.load(sys.stdin.buffer)  # noqa: S301 - `start` has written it
    with dg.DagsterInstance.from_ref(reference) as instance:
        follow_up_on(instance, run_id, follow_up)
