"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from metaflow_pipes.files import replacing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def umask() -> Iterator[int]:
    """A umask that is not the usual one."""
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def test_new_file_has_the_mode_that_the_umask_allows(tmp_path, umask):
    path = tmp_path / "file"
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o640


def test_replaced_file_keeps_its_mode(tmp_path, umask):
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o606)
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o606


def test_failure_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        fail(temporary)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "old")]


def test_umask_of_the_process_stays(tmp_path, monkeypatch):
    # for a moment without it, files that other threads create would be anybody's
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask was changed"))
    with replacing(tmp_path / "file"):
        pass
