"""Dagster's own scheduler on a definitions file, at any time of the clock."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.test_utils import create_test_daemon_workspace_context, freeze_time
from dagster._core.workspace.load_target import PythonFileTarget
from dagster._scheduler.scheduler import launch_scheduled_runs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from dagster._core.scheduler.instigation import InstigatorTick

# Runs begin as soon as they are launched: there is no daemon that dequeues them.
DAGSTER_YAML = """
telemetry:
  enabled: false
run_coordinator:
  module: dagster._core.run_coordinator
  class: DefaultRunCoordinator
"""


@dataclass(frozen=True)
class Scheduler:
    """The scheduler of a daemon that has loaded one definitions file."""

    instance: dg.DagsterInstance
    _workspace: Any

    def iterate(self, now: datetime) -> list[InstigatorTick]:
        """Let the scheduler look at the clock, and return the ticks that there are by then, the latest first."""
        with freeze_time(now):
            list(launch_scheduled_runs(self._workspace, logging.getLogger("scheduler"), now, {}))
        (location,) = self._workspace.create_request_context().get_code_location_entries().values()
        (repository,) = location.code_location.get_repositories().values()
        (schedule,) = repository.get_schedules()
        return list(self.instance.get_ticks(schedule.get_remote_origin_id(), schedule.selector_id))


@contextlib.contextmanager
def scheduler(definitions: Path, home: Path) -> Iterator[Scheduler]:
    """The scheduler on a definitions file.

    Args:
        definitions: The file.
        home: The folder of the Dagster instance, which is made.
    """
    home.mkdir()
    (home / "dagster.yaml").write_text(DAGSTER_YAML)
    target = PythonFileTarget(str(definitions), None, str(definitions.parent), definitions.name)
    with (
        dg.DagsterInstance.from_config(str(home)) as instance,
        create_test_daemon_workspace_context(target, instance) as workspace,
    ):
        yield Scheduler(instance, workspace)
