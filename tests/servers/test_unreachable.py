"""A datastore that can't be reached when a step has ended fails the attempt, which says so; nothing waits for hours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest
from support import Project, failure_description, failures, job_of

S3 = ("--datastore", "s3")
# Much less than Metaflow's own retries take, and enough for a busy machine.
PATIENCE_SECONDS = 60


def _flow(*body: str) -> str:
    lines = "".join(f"        {line}\n" for line in body)
    return (
        "import atexit, os, signal, sys, time\nfrom pathlib import Path\nfrom metaflow import FlowSpec, step\n\n"
        # exit handlers run when Metaflow has stored the task
        "def break_server(number):\n    os.kill(int(os.environ['SERVER']), number)\n\n"
        f"class CutOffFlow(FlowSpec):\n    @step\n    def only(self):\n{lines}\n"
        "if __name__ == '__main__':\n    CutOffFlow()\n"
    )


@pytest.fixture
def cut_off(fragile_shelf, project, monkeypatch):
    """A project whose flow may kill the server that is its datastore."""
    for name, value in fragile_shelf.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SERVER", str(fragile_shelf.process.pid))
    monkeypatch.setenv("METAFLOW_PIPES_REPORT_SECONDS", "3")
    return project()


SILENT = "the s3 datastore s3://shelf/metaflow is slow or can't be reached. It was given 3 s."
GONE, STOPPED = "atexit.register(break_server, 9)", "atexit.register(break_server, signal.SIGSTOP)"


@pytest.mark.parametrize(
    ("body", "reasons"),
    [
        ([GONE], ["has ended, but its logs and its outcome could not be stored and read: " + SILENT]),
        ([STOPPED], ["has ended, but its logs and its outcome could not be stored and read: " + SILENT]),
        ([GONE, "raise ValueError('on purpose')"], ["failed: ValueError: on purpose", SILENT]),
        (["break_server(9)", "os.kill(os.getpid(), 9)"], ["was killed by signal 9 (SIGKILL)", SILENT]),
    ],
    ids=["done, refused", "done, silent", "raises", "killed"],
)
def test_attempt_fails_and_names_the_datastore(cut_off, capfd, body, reasons):
    flows: Project = cut_off
    flows.write("flow.py", _flow("print('last words', file=sys.stderr)", "sys.stderr.flush()", *body))
    job = job_of(flows.compile("flow.py", top_level=S3))
    started = time.monotonic()
    result = job.execute_in_process(raise_on_error=False)
    assert time.monotonic() - started < PATIENCE_SECONDS
    (failed,) = failures(result, "only")
    description = failure_description(failed)
    assert "Step only of flow CutOffFlow (attempt 0) " in description
    for reason in reasons:
        assert reason in description
    metadata = failed.event_specific_data.user_failure_data.metadata
    assert "last words" in metadata["stderr"].value
    assert "last words" in capfd.readouterr().err
    assert not list(flows.folder.glob("metaflow.s3.*"))


def test_step_that_is_terminated_ends_before_it_is_killed(cut_off, tmp_path):
    flows: Project = cut_off
    flows.write(
        "flow.py",
        _flow(
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
            "Path('supervisor').write_text(str(os.getppid()))",
            "break_server(9)",
            "print('waiting', flush=True)",
            "Path('ready').touch()",
            "time.sleep(300)",
        ),
    )
    definitions = flows.compile("flow.py", top_level=S3)
    home = tmp_path / "home"
    home.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "dagster", "job", "execute", "-f", str(definitions), "-j", "CutOffFlow"],
        cwd=flows.folder,
        env={**os.environ, "DAGSTER_HOME": str(home), "METAFLOW_PIPES_REPORT_SECONDS": "600"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while not (flows.folder / "ready").exists():
            assert time.monotonic() < give_up_at
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, output = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        process.kill()
        process.wait()
    # by itself, with the reason: a supervisor that is killed says nothing
    assert (
        "metaflow-pipes: step only has ended, but its logs and its outcome could not be stored"
        in _stderr(home) + output
    )
    assert not Path("/proc", (flows.folder / "supervisor").read_text()).exists()


def _stderr(home: Path) -> str:
    """The compute log of the one step, which Dagster keeps whatever becomes of the datastore."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        (run,) = instance.get_runs()
        records = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.LOGS_CAPTURED).records
        keys = [record.event_log_entry.get_dagster_event().event_specific_data.file_key for record in records]
        logs = [instance.compute_log_manager.get_log_data([run.run_id, "compute_logs", key]) for key in keys]
    return b"".join(log.stderr or b"" for log in logs).decode()
