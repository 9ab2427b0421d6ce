"""A compute log for each step of the threads executor, also where they are in the cloud."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.storage.cloud_storage_compute_log_manager import CloudStorageComputeLogManager
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._serdes import ConfigurableClass
from plain_jobs import logs_of, run, side_by_side
from support import Project, persistent


def test_each_step_of_a_flow_has_its_own_logs(project, instance):
    flows: Project = project("printing.py")
    definitions = flows.compile("printing.py", "--executor", "threads", "--max-workers", "4")
    with dg.execute_job(persistent(definitions), instance) as result:
        assert result.success
        logs = logs_of(instance, result.run_id)
    assert logs["start"] == (b"out of start\n", b"err of start\n")
    assert {key: logs[key][0] for key in logs if key.startswith("work")} == {
        f"work[{index}]": f"item {index}\n".encode() for index in range(5)
    }
    run = flows.metaflow_run("PrintingFlow", f"dagster-{result.run_id}")
    assert run.successful
    assert sorted(task.stdout for task in run["work"]) == [f"item {index}\n" for index in range(5)]


# compute logs in cloud storages, whose managers upload a log and delete the local files when it is closed


class CloudLogs(CloudStorageComputeLogManager[dg.DagsterInstance], ConfigurableClass):
    """A cloud that is a folder."""

    def __init__(self, folder: str, inst_data: Any = None):
        self._folder = Path(folder)
        self._inst_data = inst_data
        self._local = LocalComputeLogManager(f"{folder}/local")
        self.uploads: list[tuple[str, bool]] = []

    inst_data = property(lambda self: self._inst_data)
    local_manager = property(lambda self: self._local)  # pyright: ignore
    upload_interval = property(lambda self: None)  # pyright: ignore

    @classmethod
    def config_type(cls) -> Any:
        return {"folder": str}

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Any) -> CloudLogs:
        return cls(inst_data=inst_data, **config_value)

    def path(self, log_key: Any, io_type: Any) -> Path:
        return self._folder / "cloud" / "-".join((*log_key, io_type.value))

    def upload_to_cloud_storage(self, log_key, io_type, partial=False):
        extension = {"stdout": "out", "stderr": "err"}[io_type.value]
        local = Path(self._local.get_captured_local_path(log_key, extension))
        self.path(log_key, io_type).parent.mkdir(exist_ok=True, parents=True)
        self.path(log_key, io_type).write_bytes(local.read_bytes())

    def delete_logs(self, log_key=None, prefix=None):
        raise NotImplementedError

    def download_url_for_type(self, log_key, io_type):
        return None

    def display_path_for_type(self, log_key, io_type):
        return str(self.path(log_key, io_type))

    def cloud_storage_has_logs(self, log_key, io_type, partial=False):
        return self.path(log_key, io_type).exists()

    def download_from_cloud_storage(self, log_key, io_type, partial=False):
        local = Path(self._local.get_captured_local_path(log_key, {"stdout": "out", "stderr": "err"}[io_type.value]))
        local.parent.mkdir(exist_ok=True, parents=True)
        local.write_bytes(self.path(log_key, io_type).read_bytes())


def test_both_streams_of_a_step_reach_a_cloud_storage(project, tmp_path):
    flows: Project = project("printing.py")
    definitions = flows.compile("printing.py", "--executor", "threads")
    overrides = {
        "compute_logs": {
            "module": "test_compute_logs",
            "class": "CloudLogs",
            "config": {"folder": str(tmp_path / "logs")},
        }
    }
    with dg.instance_for_test(temp_dir=str(tmp_path), overrides=overrides) as instance:
        with dg.execute_job(persistent(definitions), instance) as result:
            assert result.success
        logs = logs_of(instance, result.run_id)
    assert logs["start"] == (b"out of start\n", b"err of start\n")
    assert logs["work[3]"][0] == b"item 3\n"


def test_compute_log_that_can_not_be_uploaded_is_told_of_and_fails_no_step(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "cloud").write_text("a file in the way")
    logs = {"module": "test_compute_logs", "class": "CloudLogs", "config": {"folder": str(folder)}}
    with dg.instance_for_test(temp_dir=str(tmp_path), overrides={"compute_logs": logs}) as instance:
        result = run(side_by_side, instance)
        assert result.success
        entries = instance.all_logs(result.run_id, dg.DagsterEventType.ENGINE_EVENT)
    told = {entry.step_key: entry.message for entry in entries if "could not be stored" in entry.message}
    assert set(told) == {"numbers", *(f"slow[{index}]" for index in range(4)), "total"}
    assert told["slow[2]"].startswith("The compute log of step slow[2] could not be stored: FileExistsError: ")
