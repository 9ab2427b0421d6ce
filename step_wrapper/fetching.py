"""The code package of a flow, fetched from its datastore into a folder: once, whole or not at all, and verified."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaflow.package import MetaflowPackage

from step_wrapper import companions
from step_wrapper.report.datastore import datastore_of

if TYPE_CHECKING:
    from collections.abc import Iterator

# The parts of a package that whoever runs this has: another version of them would break the steps.
LEFT_OUT = tuple(
    f"{companions.PACKAGED_MODULES}/{name}/" for name in ("dagster_pipes", "metaflow", "metaflow_extensions")
)

# How long a package is kept that no step runs from, in days.
KEPT_DAYS = 30


class PackageError(Exception):
    """A code package is not what it should be; the message is a sentence."""


def answer(argument: str) -> int:
    """Fetch the code package that a process is asked for, and return its exit code: 0 if it is there.

    Args:
        argument: A `companions.CodeRequest`, as JSON.
    """
    try:
        fetch(json.loads(argument))
    except Exception as error:  # storages raise their own
        print(error if isinstance(error, PackageError) else f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def fetch(request: companions.CodeRequest) -> None:
    """Have a code package in its folder.

    Of several processes that ask at the same time, one fetches it, and the others wait. What was changed there is
    replaced.

    Args:
        request: What is to be fetched.

    Raises:
        PackageError: The package is not the one that was asked for, or does not have the flow file.
        Exception: The datastore's own.
    """
    folder = Path(request["folder"])
    with _locked(folder.with_name(f"{folder.name}.lock")):
        if _has_flow_file(folder, request):
            return
        blob = _downloaded(request)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            extracted = Path(temporary, "new")
            _extract(blob, request["metadata"], extracted)
            if not _has_flow_file(extracted, request):
                raise PackageError(
                    f"The package does not have {request['file']} as it was compiled. Compile the flow again."
                )
            if folder.exists():
                folder.rename(Path(temporary, "old"))
            extracted.rename(folder)
    prune(folder.parent)


def prune(cache: Path) -> None:
    """Delete the code packages that no step has been started from for long, and that no process works in.

    Args:
        cache: The folder with the packages. Whoever starts a step from one sets the time of its folder.
    """
    too_old = time.time() - KEPT_DAYS * 24 * 60 * 60
    for lock in cache.glob("*.lock"):
        folder = lock.with_suffix("")
        # another process may fetch or delete it at the same time
        with contextlib.suppress(OSError):
            if folder.stat().st_mtime < too_old and not _is_worked_in(folder):
                with _locked(lock, waits=False), tempfile.TemporaryDirectory(prefix=".", dir=cache) as temporary:
                    if folder.stat().st_mtime < too_old:
                        folder.rename(Path(temporary, "old"))
                        lock.unlink()


def _is_worked_in(folder: Path) -> bool:
    """Whether a folder, or one within it, is the working directory of a process of this machine, as far as is known."""
    real = folder.resolve()
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if link.readlink().is_relative_to(real):
                return True
    return False


@contextlib.contextmanager
def _locked(path: Path, *, waits: bool = True) -> Iterator[None]:
    """Be the only process that has a lock, on this machine, or on all that share a file system with such locks.

    Raises:
        BlockingIOError: Another process has it, and this one does not wait.
    """
    while True:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
            # deleted by the process that had it before, it locks nothing
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield
                return


def _has_flow_file(folder: Path, request: companions.CodeRequest) -> bool:
    try:
        digest = hashlib.sha256((folder / request["file"]).read_bytes()).hexdigest()
    except OSError:
        return False
    return request["fingerprint"] == f"sha256:{digest}"


def _downloaded(request: companions.CodeRequest) -> bytes:
    """The bytes of the package."""
    datastore = datastore_of(request["flow"], request["datastore"], request["datastore_root"])
    try:
        ((_, blob),) = datastore.load_data([request["sha"]], force_raw=True)
    except TypeError:  # Metaflow opens what it did not find
        raise PackageError("There is no such package in the datastore.") from None
    found = hashlib.sha1(blob, usedforsecurity=False).hexdigest()
    if found != request["sha"]:
        raise PackageError(f"The package is damaged: its digest is {found}.")
    return blob


def _extract(blob: bytes, metadata: str, folder: Path) -> None:
    """Extract a package, without what is left out."""
    folder.mkdir()
    backend: Any = MetaflowPackage.get_backend(metadata)
    with backend.cls_open(io.BytesIO(blob)) as archive:
        members = [
            member
            for member in backend.cls_list_members(archive) or ()
            if not backend.cls_member_name(member).startswith(LEFT_OUT)
        ]
        backend.cls_extract_members(archive, members, str(folder))
    with contextlib.suppress(OSError):
        # of Metaflow's part alone, nothing is left
        (folder / companions.PACKAGED_MODULES).rmdir()
