"""Asset checks that a task reports: its own are kept for the task's report, those of other assets go on at once."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from dagster_pipes import PipesContext

if TYPE_CHECKING:
    from collections.abc import Mapping

    from metaflow_extensions.metaflow_pipes.plugins.checks import TaskChecks


def take_own_checks(checks: TaskChecks, asset_key: str) -> None:
    """Let `PipesContext.report_asset_check` of this process mean the step's own asset, if it is given no other.

    The Pipes session itself names no asset: one that names some takes reports on no other ones.

    Args:
        checks: The checks of the task.
        asset_key: The key of the step's asset, as Pipes writes keys.
    """
    report_asset_check = PipesContext.report_asset_check

    @functools.wraps(report_asset_check)
    def report(
        self: PipesContext,
        check_name: str,
        passed: bool,
        severity: Any = "ERROR",
        metadata: Mapping[str, Any] | None = None,
        asset_key: str | None = None,
        *,
        own_key: str = asset_key,
    ) -> None:
        if asset_key not in (None, own_key):
            report_asset_check(self, check_name, passed, severity, metadata, asset_key)
        elif checks.is_here:
            checks.add(check_name, {"passed": passed, "severity": severity, "metadata": dict(metadata or {})})
        else:
            # a process that the step's own has forked: what it says can't be kept
            report_asset_check(self, check_name, passed, severity, metadata, own_key)

    PipesContext.report_asset_check = report
