"""The Metaflow run that a Dagster run belongs to, told from what Dagster keeps of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaflow_pipes.names import RESUME_RETRY_TAG, RUN_ID_PREFIX, RUN_ID_TAG

if TYPE_CHECKING:
    from collections.abc import Mapping


def metaflow_run_id(dagster_run_id: str) -> str:
    """The id of the Metaflow run that a Dagster run begins."""
    return f"{RUN_ID_PREFIX}{dagster_run_id}"


def metaflow_run_id_of(dagster_run_id: str, tags: Mapping[str, str], *, is_selection: bool) -> str:
    """The id of the Metaflow run of a Dagster run; a re-execution from failure goes on with that of the run before.

    Args:
        dagster_run_id: The Dagster run.
        tags: Its tags.
        is_selection: Whether it executes selected steps only, of a run before it.
    """
    own = metaflow_run_id(dagster_run_id)
    # the UI copies the tags of a run to re-executions that begin anew, too
    continues = is_selection or tags.get(RESUME_RETRY_TAG) == "true"
    return tags.get(RUN_ID_TAG, own) if continues else own
