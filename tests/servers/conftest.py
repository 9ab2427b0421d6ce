"""Servers that the tests start and end themselves."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from servers.cluster import START_SECONDS, Cluster, running_cluster
from support import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "shelf"


@dataclass
class S3Server:
    """A server with the interface of S3, and one bucket.

    Attributes:
        url: Where it is.
        process: Its process.
        log: The file with a line for each request.
    """

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def requests(self) -> list[tuple[str, str]]:
        """The requests that have come: of each, its method and its path."""
        # in colors, if they have failed
        return re.findall(r'"(?:\x1b\[[0-9;]*m)*([A-Z]+) (\S+) HTTP', self.log.read_text())

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which Metaflow uses it."""
        return {
            "METAFLOW_DATASTORE_SYSROOT_S3": f"s3://{BUCKET}/metaflow",
            "METAFLOW_S3_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "METAFLOW_S3_WORKER_COUNT": "2",
        }


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Have a server as long as the context is open."""
    port = free_port()
    log_file = Path(folder, "s3.log")
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        server = S3Server(f"http://127.0.0.1:{port}", process, log_file)
        _create_bucket(server)
        yield server
    finally:
        process.kill()
        process.wait()


def _create_bucket(server: S3Server) -> None:
    import requests

    give_up_at = time.monotonic() + START_SECONDS
    while True:
        try:
            requests.put(f"{server.url}/{BUCKET}", timeout=START_SECONDS).raise_for_status()
        except requests.ConnectionError:
            assert server.process.poll() is None, "the server has ended"
            assert time.monotonic() < give_up_at, f"the server answers within {START_SECONDS} s"
            time.sleep(0.1)
        else:
            return


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server that tests share."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def kubernetes(shelf: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that tests share; its nodes reach the shared server."""
    node = {name: value for name, value in shelf.environment.items() if name.startswith("AWS_")}
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "secrets").mkdir()
    (folder / "secrets" / "vault").write_text(json.dumps({"KEY": "from the cluster"}))
    with running_cluster(folder, node) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def cluster(kubernetes: Cluster, shelf: S3Server) -> Iterator[Cluster]:
    """The cluster, as long as the tests of a module launch steps in it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**shelf.environment, **kubernetes.environment}.items():
            patch.setenv(name, value)
        patch.setenv("METAFLOW_DEFAULT_DATASTORE", "s3")
        yield kubernetes


@pytest.fixture
def fragile_shelf(tmp_path: Path) -> Iterator[S3Server]:
    """A server that a test may break."""
    with s3_server(tmp_path) as server:
        yield server
