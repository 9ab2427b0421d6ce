"""Fixtures for all faults."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from warm_children import OTHERS, children

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def all_ends() -> Iterator[None]:
    """No warm process outlives its run, and none becomes a zombie."""
    OTHERS.clear()
    OTHERS.update(children())
    yield
    assert children() == []
