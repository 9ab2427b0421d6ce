"""Dagster's own daemon on a definitions file: its scheduler, at any time of the clock, and its backfills."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.execution.backfill import PartitionBackfill
from dagster._core.test_utils import create_test_daemon_workspace_context, freeze_time
from dagster._core.workspace.load_target import PythonFileTarget
from dagster._daemon.backfill import execute_backfill_iteration
from dagster._scheduler.scheduler import launch_scheduled_runs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from dagster._core.scheduler.instigation import InstigatorTick

PATIENCE_SECONDS = 300
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

    def backfill(self, assets: Sequence[dg.AssetKey], partitions: Sequence[str]) -> list[dg.DagsterRun]:
        """Let the daemon materialize partitions of assets, and return the runs when it is done with that."""
        backfill = PartitionBackfill.from_asset_partitions(
            backfill_id="backfill",
            asset_graph=self._workspace.create_request_context().asset_graph,
            partition_names=partitions,
            asset_selection=assets,
            backfill_timestamp=time.time(),
            tags={},
            dynamic_partitions_store=self.instance,
            all_partitions=False,
            title=None,
            description=None,
            run_config=None,
        )
        self.instance.add_backfill(backfill)
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while backfill.status.value in ("REQUESTED", "CANCELING"):
            assert time.monotonic() < give_up_at
            list(execute_backfill_iteration(self._workspace, logging.getLogger("backfill")))
            time.sleep(0.2)
            found = self.instance.get_backfill("backfill")
            assert found is not None
            backfill = found
        assert backfill.status.value == "COMPLETED_SUCCESS", backfill.error
        return list(self.instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": "backfill"})))


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
