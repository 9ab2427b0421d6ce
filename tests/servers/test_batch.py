"""Steps with `@batch`: Metaflow's own jobs, on a double of the calls of AWS Batch that Metaflow makes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ended_runs import until
from servers.cluster import image, wait_for
from support import Project, execute, failure_description, failures, free_port, job_of, output_metadata, supervisor

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.xdist_group("kubernetes")  # one worker: jobs are slow where there are others

S3 = ("--datastore", "s3")
DOUBLE = Path(__file__).parent / "batch_double.py"
FLOW = """
import os
from metaflow import FlowSpec, batch, environment, step

class BatchFlow(FlowSpec):
    @environment(vars={"COLOR": "green"})
    @batch(cpu=2)
    @step
    def only(self):
        print("in the job")
        self.color, self.job = os.environ["COLOR"], os.environ["AWS_BATCH_JOB_ID"]

if __name__ == "__main__":
    BatchFlow()
"""


@dataclass(frozen=True)
class Queue:
    """A queue of AWS Batch, and a flow that uses it.

    Attributes:
        folder: Where the double keeps what was asked of it.
        definitions: The flow's definitions file.
    """

    folder: Path
    definitions: Path

    def calls(self, call: str) -> list[dict[str, Any]]:
        path = self.folder / "requests.jsonl"
        entries = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [entry for entry in entries if entry["call"] == call]


@pytest.fixture(scope="module")
def queue(shelf, tmp_path_factory) -> Iterator[Queue]:
    folder = tmp_path_factory.mktemp("batch")
    node = {name: value for name, value in shelf.environment.items() if name.startswith("AWS_")}
    (folder / "node.json").write_text(json.dumps({**image(folder), **node}))
    port = free_port()
    process = subprocess.Popen([sys.executable, DOUBLE, str(port), folder])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METAFLOW_DEFAULT_DATASTORE", "s3")
        patch.setenv("METAFLOW_BATCH_JOB_QUEUE", "queue")
        patch.setenv("METAFLOW_ECS_S3_ACCESS_IAM_ROLE", "role")
        patch.setenv("AWS_ENDPOINT_URL_BATCH", f"http://127.0.0.1:{port}")
        for name, value in shelf.environment.items():
            patch.setenv(name, value)
        try:
            wait_for(port, process)
            flows = Project.of(tmp_path_factory.mktemp("flow") / "project")
            flows.write("flow.py", FLOW)
            yield Queue(folder, flows.compile("flow.py", top_level=S3))
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


def test_step_runs_as_a_job(queue):
    result = execute(job_of(queue.definitions))
    assert result.success
    (submitted,) = queue.calls("submitjob")
    job = submitted["answer"]["jobId"]
    metadata = output_metadata(result, "only")
    assert metadata["compute"].value == "batch"
    assert metadata["job"].value == metadata["job (artifact)"].value == job
    assert metadata["color"].value == "green"
    assert metadata["job_link"].value.endswith(f"#jobs/detail/{job}")


def test_job_in_its_queue_is_ended_when_the_step_is(queue):
    known = len(queue.calls("submitjob"))
    (queue.folder / "pending").touch()

    def terminate():
        until(lambda: queue.calls("submitjob")[known:])
        os.kill(supervisor(), signal.SIGTERM)

    threading.Thread(target=terminate, daemon=True).start()
    result = execute(job_of(queue.definitions))
    (failed,) = failures(result, "only")
    assert "was terminated" in failure_description(failed)
    job = queue.calls("submitjob")[known]["answer"]["jobId"]
    assert job in [call["request"]["jobId"] for call in queue.calls("terminatejob")]
