"""The definitions of an entry that has none: one asset that says why, so that the others of the project load."""

from __future__ import annotations

import os
import re

import dagster as dg

# Set by `dagster definitions validate` and `dg check defs`, which shall fail.
_VALIDATION_VARIABLE = "DAGSTER_IS_DEFS_VALIDATION_CLI"


def is_validated() -> bool:
    """Whether the definitions are loaded to find out whether they can be."""
    return bool(os.environ.get(_VALIDATION_VARIABLE))


def broken_entry(entry: str, problem: str) -> dg.Definitions:
    """The definitions of an entry that can't be loaded.

    Args:
        entry: The entry's name.
        problem: Why, as its user shall read it.
    """
    name = re.sub(r"[^A-Za-z0-9_]+", "_", entry).strip("_")

    @dg.asset(
        key=["metaflow_entry", name],
        group_name=name,
        description=f"**This entry can't be loaded.**\n\n```\n{problem}\n```",
        tags={"metaflow/broken": "true"},
        kinds={"metaflow"},
        op_tags={"metaflow/entry": name},
    )
    def broken() -> None:
        raise dg.Failure(problem, allow_retries=False)

    return dg.Definitions(assets=[broken])
