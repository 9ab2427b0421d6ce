"""A cluster for the tests: the double of the Kubernetes API, and the images of its pods."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interpreters import link_requirements, virtual_environment
from support import free_port, path_with_python

if TYPE_CHECKING:
    from collections.abc import Iterator

DOUBLE = Path(__file__).parent / "kube_double.py"
MICROMAMBA = Path(__file__).parent.parent / "micromamba.py"
NAMESPACE = "science"
# Images with Dagster and this package; all others have what Metaflow requires.
DAGSTER_IMAGES = ("registry.test/flows:1", "registry.test/train:1")
START_SECONDS = 60


@dataclass(frozen=True)
class Cluster:
    """A cluster that runs.

    Attributes:
        folder: Where the double keeps what was asked of it.
        environment: The variables by which Metaflow uses it.
    """

    folder: Path
    environment: dict[str, str]

    def requests(self, method: str) -> list[dict[str, Any]]:
        """The requests of a method that would change something, in their order."""
        path = self.folder / "requests.jsonl"
        entries = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [entry for entry in entries if entry["method"] == method]

    def jobs(self, run_id: str) -> list[dict[str, Any]]:
        """The jobs that were made for a Metaflow run."""
        bodies = [entry["body"] for entry in self.requests("POST")]
        return [body for body in bodies if (body["metadata"].get("annotations") or {}).get("metaflow/run_id") == run_id]

    def ended(self) -> list[tuple[str, float]]:
        """The jobs that were deleted or stopped, each with the time."""
        entries = [*self.requests("DELETE"), *self.requests("PATCH")]
        return [(entry["job"], entry["time"]) for entry in entries if not entry["refused"]]


@contextlib.contextmanager
def running_cluster(folder: Path, node: dict[str, str]) -> Iterator[Cluster]:
    """Start a cluster, and end it and its pods with the context.

    Args:
        folder: An empty folder.
        node: The variables of its nodes, which all pods have.
    """
    port = free_port()
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "double", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
                "users": [{"name": "tester", "user": {}}],
                "contexts": [{"name": "double", "context": {"cluster": "double", "user": "tester"}}],
                "current-context": "double",
            }
        )
    )
    images = {"": image(folder), **{name: {"PATH": path_with_python()} for name in DAGSTER_IMAGES}}
    (folder / "images.json").write_text(json.dumps({name: {**own, **node} for name, own in images.items()}))
    process = subprocess.Popen([sys.executable, DOUBLE, str(port), folder])
    try:
        wait_for(port, process)
        yield Cluster(folder, {"KUBECONFIG": str(kubeconfig), "METAFLOW_KUBERNETES_NAMESPACE": NAMESPACE})
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def image(folder: Path) -> dict[str, str]:
    """The variables of a process that has an interpreter with what Metaflow requires, and nothing of this one's.

    It also has uv, and the stand-in for micromamba, so that Metaflow loads neither from the internet.
    """
    python = virtual_environment(folder / "image")
    link_requirements("metaflow", python.parent.parent)
    uv = shutil.which("uv", path=path_with_python())
    assert uv is not None
    (python.parent / "uv").symlink_to(uv)
    stand_in = python.parent / "micromamba"
    stand_in.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, str(MICROMAMBA), str(folder)])} "$@"\n')
    stand_in.chmod(0o755)
    path = os.pathsep.join([str(python.parent), "/usr/local/bin", "/usr/bin", "/bin"])
    return {"HOME": str(folder), "PATH": path, "METAFLOW_SKIP_INSTALL_DEPENDENCIES": "1"}


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers."""
    import requests

    give_up_at = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None, "the double has ended"
        assert time.monotonic() < give_up_at
        with contextlib.suppress(requests.ConnectionError):
            requests.get(f"http://127.0.0.1:{port}/version", timeout=START_SECONDS)
            return
        time.sleep(0.05)
