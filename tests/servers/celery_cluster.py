"""Celery workers with disks and homes of their own, which share a datastore, a Dagster instance and a broker."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
import yaml
from servers.conftest import s3_server
from servers.postgres import running_postgres
from servers.redis_server import running_redis
from servers.relay import Relay
from support import Project

from metaflow_pipes.runs.loading import load_job

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from servers.postgres import Postgres
    from servers.redis_server import Redis

SECONDS_TO_START = 90
# How Celery hands a task of a dead worker to another one, after so many seconds, and goes on while Redis is gone.
CONFIG_SOURCE = {
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "result_backend_always_retry": True,
    "broker_connection_retry_on_startup": True,
    "broker_transport_options": {"visibility_timeout": 25},
}
# In Dagster's instance, each process has its own disk: nothing that is put there reaches another one.
INSTANCE = """
storage: {{postgres: {{postgres_url: "{url}"}}}}
local_artifact_storage:
  module: dagster.core.storage.root
  class: LocalArtifactStorage
  config: {{base_dir: {{env: WORKER_DISK}}}}
compute_logs:
  module: dagster.core.storage.local_compute_log_manager
  class: LocalComputeLogManager
  config: {{base_dir: {{env: WORKER_DISK}}}}
telemetry: {{enabled: false}}
"""


@dataclass
class Worker:
    """A Celery worker.

    Attributes:
        folder: All that it has: its home, and its disk.
        environment: The variables that it is started with.
    """

    folder: Path
    environment: Mapping[str, str]
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def disk(self) -> Path:
        return self.folder / "disk"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self) -> None:
        """Start it; `wait` says when it is ready."""
        arguments = ["--concurrency=1", "--prefetch-multiplier=1", "--without-gossip", "--without-mingle"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "celery", "-A", "dagster_celery.app", "worker", "-Q", "dagster"),
                    *("-n", f"{self.folder.name}@test", "--loglevel=INFO", *arguments),
                ],
                cwd=self.folder,
                env=dict(self.environment),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait until it takes tasks."""
        assert self._process is not None
        give_up_at = time.monotonic() + SECONDS_TO_START
        while " ready." not in self.log.read_text():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < give_up_at, self.log.read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill it, as when its machine dies: it, and the processes that it runs tasks in."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@dataclass
class Cluster:
    """Two workers, and what they share.

    Attributes:
        flows: The folder of whoever compiles the flow.
        definitions: The definitions file, all that workers have of the flow.
        signals: The folder by whose files steps and tests tell each other how far they are.
        store: The S3 server, as the workers reach it.
        postgres: Dagster's storage.
        redis: Celery's broker and result backend.
        workers: The workers.
        instance: Dagster's instance, as the run's process has it.
    """

    flows: Project
    definitions: Path
    signals: Path
    store: Relay
    postgres: Postgres
    redis: Redis
    workers: list[Worker]
    instance: dg.DagsterInstance

    @property
    def job(self) -> Any:
        """The job, as other processes load it."""
        return dg.build_reconstructable_job(
            load_job.__module__,
            load_job.__name__,
            (str(self.definitions), "FarFlow"),  # pyright: ignore[reportArgumentType]
        )

    def run(self, waits: str = "", **options: Any) -> str:
        """Run the flow to its end, and return the Dagster run."""
        config = {} if "reexecution_options" in options else {"run_config": run_config(waits)}
        with dg.execute_job(self.job, self.instance, **config, **options) as result:
            return result.run_id

    def signal(self, name: str) -> Path:
        return self.signals / name


def run_config(waits: str) -> dict[str, Any]:
    return {"ops": {"start": {"config": {"waits": waits}}}}


@contextlib.contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """Have a cluster as long as the context is open."""
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(running_postgres())
        redis = stack.enter_context(running_redis())
        server = stack.enter_context(s3_server(folder))
        store = Relay(int(server.url.rpartition(":")[2]))
        stack.callback(store.close)
        for name in ("deployed", "signals", "metadata"):
            (folder / name).mkdir()
        environment = {
            **os.environ,
            **server.environment,
            "METAFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{store.port}",
            # in place of a metadata service
            "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(folder / "metadata"),
            "SIGNALS": str(folder / "signals"),
            "BROKER": redis.url,
        }
        workers = [_worker(folder / f"worker-{number}", environment, postgres, redis) for number in (1, 2)]
        for worker in workers:
            stack.callback(worker.kill)
            worker.start()
        definitions = _deployed(folder, environment)
        home = folder / "run"
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in {**environment, "WORKER_DISK": str(home)}.items():
            patch.setenv(name, value)
        home.mkdir()
        (home / "dagster.yaml").write_text(INSTANCE.format(url=postgres.url))
        instance = stack.enter_context(dg.DagsterInstance.from_config(str(home)))
        for worker in workers:
            worker.wait()
        flows = Project(folder / "project")
        yield Cluster(flows, definitions, folder / "signals", store, postgres, redis, workers, instance)


def _worker(folder: Path, environment: Mapping[str, str], postgres: Postgres, redis: Redis) -> Worker:
    for name in ("home", "disk", "temporary"):
        (folder / name).mkdir(parents=True)
    (folder / "home" / "dagster.yaml").write_text(INSTANCE.format(url=postgres.url))
    settings = {"broker_url": redis.url, "result_backend": redis.url, **CONFIG_SOURCE}
    # as `dagster-celery worker start -y` writes it
    lines = "".join(f"{name} = {value!r}\n" for name, value in settings.items())
    (folder / "dagster_celery_config.py").write_text(lines)
    return Worker(
        folder,
        {
            **environment,
            "HOME": str(folder / "home"),
            "DAGSTER_HOME": str(folder / "home"),
            "TMPDIR": str(folder / "temporary"),
            "WORKER_DISK": str(folder / "disk"),
            "PYTHONPATH": str(folder),
        },
    )


def _deployed(folder: Path, environment: Mapping[str, str]) -> Path:
    """The definitions file of FarFlow, alone in a folder."""
    flows = Project.of(folder / "project", "far.py")
    config = {"broker": {"env": "BROKER"}, "backend": {"env": "BROKER"}, "config_source": CONFIG_SOURCE}
    flows.write("celery.yaml", yaml.safe_dump({"execution": {"config": config}}))
    options = ["--executor", "dagster_celery:celery_executor", "--executor-config", "celery.yaml"]
    variables = {name: value for name, value in environment.items() if name.startswith(("METAFLOW_", "AWS_"))}
    flows.metaflow("far.py", "--datastore", "s3", "dagster", "create", "defs.py", *options, **variables)
    return (flows.folder / "defs.py").rename(folder / "deployed" / "defs.py")
