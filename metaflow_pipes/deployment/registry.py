"""The deployments of this machine's user: where their definitions files are, in Metaflow's own folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from metaflow_pipes.deployment.definitions_file import read_deployment
from metaflow_pipes.errors import DeploymentError
from metaflow_pipes.files import replacing

if TYPE_CHECKING:
    from metaflow_pipes.deployment.definitions_file import Deployment


# Where the entries of the registry are, in Metaflow's own folder. Metaflow keeps production tokens there in files that
# are named after jobs, so no job can have this name.
REGISTRY = "dagster-deployments"


# How many hexadecimal digits tell the paths of definitions files apart.
ENTRY_NAME_LENGTH = 32


def register(deployment: Deployment) -> None:
    """Let other processes find a deployment by its name.

    Raises:
        OSError: Metaflow's folder can't be written.
    """
    entry = _entry(deployment.definitions_file)
    entry.parent.mkdir(parents=True, exist_ok=True)
    with replacing(entry) as temporary:
        temporary.write_text(json.dumps({"definitions_file": str(deployment.definitions_file)}) + "\n")


def forget(definitions_file: str | os.PathLike[str]) -> None:
    """Remove a definitions file from the registry; one that isn't there doesn't matter.

    Raises:
        OSError: Metaflow's folder can't be written.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        _entry(Path(os.path.abspath(definitions_file))).unlink()


def delete(deployment: Deployment) -> None:
    """Remove a deployment: its definitions file and its entry.

    Raises:
        DeploymentError: One of them can't be removed.
    """
    try:
        deployment.definitions_file.unlink(missing_ok=True)
        forget(deployment.definitions_file)
    except OSError as error:
        raise DeploymentError(
            f"The deployment {deployment.name} can't be deleted: {error.filename}: {error.strerror}. Remove the file "
            "yourself, with the rights to do so."
        ) from None


def registered(flow_name: str | None = None) -> list[Deployment]:
    """The registered deployments, the latest first; those that are gone or can't be read are left out.

    Args:
        flow_name: Only those of this flow.
    """
    entries: list[tuple[int, Deployment]] = []
    for entry in registry_folder().glob("*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, DeploymentError):
            deployment = read_deployment(json.loads(entry.read_text())["definitions_file"])
            entries.append((entry.stat().st_mtime_ns, deployment))
    entries.sort(key=lambda pair: (-pair[0], str(pair[1].definitions_file)))
    return [deployment for _, deployment in entries if flow_name in (None, deployment.flow_name)]


def registry_folder() -> Path:
    """The folder of the registry: one small file for each definitions file, so that no two processes write one."""
    return Path(os.environ.get("METAFLOW_HOME", "~/.metaflowconfig")).expanduser() / REGISTRY


def _entry(definitions_file: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(definitions_file)).hexdigest()
    return registry_folder() / f"{digest[:ENTRY_NAME_LENGTH]}.json"
