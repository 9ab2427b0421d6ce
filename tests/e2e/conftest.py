"""Fixtures for all runs in this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A test's own Dagster instance."""
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        yield instance
