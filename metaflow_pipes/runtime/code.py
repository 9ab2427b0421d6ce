"""The code of a flow where a step runs: beside the definitions file, or fetched from the flow's code package."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from metaflow_pipes.locations import beside, fingerprint_of, local_datastore_of
from metaflow_pipes.runtime import step_thread
from metaflow_pipes.runtime.step_process import StartedProcess, StepLaunch
from step_wrapper import companions

if TYPE_CHECKING:
    from collections.abc import Mapping

# The folder where code packages are kept, each in a folder that has the name of its digest.
CACHE_VARIABLE = "METAFLOW_PIPES_CODE_CACHE"
DEFAULT_CACHE = "~/.metaflow-pipes/code"
# How long it may take to fetch one, with all of the storage's own retries.
FETCH_SECONDS = 300
# How much of the end of what is printed then is shown, if it fails.
SHOWN_BYTES = 5000


@dataclass(frozen=True)
class CodePackage:
    """Metaflow's code package of a flow, as `create` has stored it in the flow's datastore.

    Attributes:
        url: Where it is; in a local datastore, a path relative to the definitions file's folder, or absolute.
        sha: The SHA-1 digest of its bytes, by which the datastore knows it.
        metadata: How Metaflow reads it, as JSON.
    """

    url: str
    sha: str
    metadata: str

    def environment(self, datastore: str, definitions_file: str) -> dict[str, str]:
        """The variables by which Metaflow notes with a task which code it ran, for `Run.code`.

        Args:
            datastore: The type of the datastore.
            definitions_file: The path of the definitions file, where a relative URL starts, which is a path.
        """
        url = str(beside(definitions_file, self.url)) if datastore == "local" else self.url
        return {
            "METAFLOW_CODE_DS": datastore,
            "METAFLOW_CODE_METADATA": self.metadata,
            "METAFLOW_CODE_SHA": self.sha,
            "METAFLOW_CODE_URL": url,
        }


@dataclass(frozen=True)
class CodePlace:
    """A flow file that is there, and can be run.

    Attributes:
        file: The absolute path of the flow file.
        folder: The absolute path of the folder where the steps run.
        environment: The variables of the steps that it needs.
    """

    file: str
    folder: str
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FlowCode:
    """The code of a flow, wherever it is. It can be sent to another process.

    Attributes:
        flow: The flow's name.
        file: The absolute path of the flow file, as the definitions file names it.
        folder: The absolute path of the folder where the steps run.
        fingerprint: `sha256:` and the digest of the flow file when it was compiled.
        package: The code package, or None if it was not stored.
        datastore: The type of the datastore.
        datastore_root: Its root, an absolute path or a URL.
        has_local_metadata: Whether Metaflow's metadata are files, though the datastore is none on this machine.
    """

    flow: str
    file: str
    folder: str
    fingerprint: str
    package: CodePackage | None
    datastore: str
    datastore_root: str
    has_local_metadata: bool

    def provide(self, environment: Mapping[str, str]) -> CodePlace:
        """The flow file as it was compiled; fetched, the first time, if the one beside the definitions file is not it.

        Without a code package, it is the one beside the definitions file, whether it has changed or not.

        Args:
            environment: The whole environment of a step, which reaches the datastore.

        Raises:
            dagster.Failure: It can't be fetched; says why, and what to do.
        """
        if self.package is None or _is_file(Path(self.file), self.fingerprint):
            return CodePlace(self.file, self.folder)
        cache = Path(environment.get(CACHE_VARIABLE) or DEFAULT_CACHE).expanduser()
        place = cache.absolute() / self.package.sha
        file = place / Path(self.file).name
        with contextlib.suppress(OSError):  # it was not fetched yet, or is not ours to change
            os.utime(place)  # `step_wrapper.fetching` deletes those that are not used
        if not _is_file(file, self.fingerprint):
            self._fetch(self.package, place, environment)
        return CodePlace(str(file), str(place), self._variables(place, environment))

    def _variables(self, place: Path, environment: Mapping[str, str]) -> dict[str, str]:
        """The variables of a step that runs in the cache."""
        variables: dict[str, str] = {}
        modules = place / companions.PACKAGED_MODULES
        if modules.is_dir():
            variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(modules), environment.get("PYTHONPATH")]))
        if self.has_local_metadata and "METAFLOW_DATASTORE_SYSROOT_LOCAL" not in environment:
            # where they are as long as the flow file is where it was compiled; the cache is for no run's data
            found = local_datastore_of(Path(self.folder))
            variables["METAFLOW_DATASTORE_SYSROOT_LOCAL"] = self.folder if found is None else str(Path(found).parent)
        return variables

    def _fetch(self, package: CodePackage, place: Path, environment: Mapping[str, str]) -> None:
        request = companions.CodeRequest(
            flow=self.flow,
            datastore=self.datastore,
            datastore_root=self.datastore_root,
            sha=package.sha,
            metadata=package.metadata,
            folder=str(place),
            file=Path(self.file).name,
            fingerprint=self.fingerprint,
        )
        try:
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile() as output:
                command = [sys.executable, "-m", "step_wrapper", companions.FETCHES, json.dumps(request)]
                exit_code = _exit_code(
                    StepLaunch(command, environment, str(place.parent), output.fileno(), output.fileno())
                )
                output.seek(max(0, output.seek(0, os.SEEK_END) - SHOWN_BYTES))
                shown = output.read().decode(errors="replace").strip()
        except OSError as error:
            raise self._failure(package, f"{error.filename or place.parent}: {error.strerror}", place) from None
        if exit_code is None:
            raise self._failure(package, f"that has taken longer than {FETCH_SECONDS} s. {shown}".strip(), place)
        if exit_code:
            raise self._failure(package, shown or f"exit code {exit_code}", place)

    def _failure(self, package: CodePackage, reason: str, place: Path) -> dg.Failure:
        return dg.Failure(
            f"The code of flow {self.flow}, which is not beside its definitions file as it was compiled, can't be "
            f"fetched from {package.url} to {place}: {reason}\nLook whether this machine reaches the datastore, with "
            f"which credentials, and whether it may write there; {CACHE_VARIABLE} names another folder. If the package "
            "was deleted, compile the flow again."
        )


def _is_file(path: Path, fingerprint: str) -> bool:
    """Whether a file is there and has a fingerprint."""
    try:
        return fingerprint_of(path) == fingerprint
    except OSError:
        return False


def _exit_code(launch: StepLaunch) -> int | None:
    """Run a process to its end, as an op waits for its step, and return its exit code; None if it takes too long."""
    with open(os.devnull, "rb") as null:  # noqa: PTH123 - no path of ours
        process = StartedProcess(launch._replace(stdin=null.fileno()))
    try:
        with step_thread.current().waits_for(process):
            return process.wait(FETCH_SECONDS)
    except subprocess.TimeoutExpired:
        return None
    finally:
        process.kill_group()
        process.wait()
