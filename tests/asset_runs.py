"""Runs of assets: those of a definitions file, by the job that Dagster makes for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.definitions.reconstruct import ReconstructableRepository

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def materialize(
    definitions: Path,
    instance: dg.DagsterInstance,
    *keys: str,
    config: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    reexecute: str | None = None,
) -> dg.JobExecutionResult:
    """A run of some assets by the executor of their code location, to success or failure.

    Args:
        definitions: The definitions file.
        instance: The instance.
        keys: The assets, such as `TrainFlow/end`; empty for all.
        config: The run config.
        tags: Tags of the run.
        reexecute: The run to go on with from its failure.
    """
    options: dict[str, Any] = {"run_config": config, "tags": tags}
    if reexecute is not None:
        options = {"reexecution_options": dg.ReexecutionOptions.from_failure(reexecute, instance)}
    elif keys:
        options["asset_selection"] = [dg.AssetKey(key.split("/")) for key in keys]
    return dg.execute_job(asset_job(definitions), instance, raise_on_error=False, **options)


def asset_job(definitions: Path) -> dg.ReconstructableJob:
    """The job of all assets of a definitions file, as `dagster asset materialize -f` loads it."""
    repository = ReconstructableRepository.for_file(str(definitions), "defs", str(definitions.parent))
    return repository.get_reconstructable_job("__ASSET_JOB")
