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
from support import Project, execute, failure_description, failures, job_of

from metaflow_pipes.names import ORIGIN_RUN_ID_TAG

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
    job = job_of(flows.compile("flow.py", "--no-package", top_level=S3))
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


def test_attempt_whose_report_is_lost_too_fails_when_what_is_stored_can_not_be_read(cut_off):
    flows: Project = cut_off
    lose_reports = (
        "from dagster_pipes import PipesEnvVarParamsLoader",
        "messages = Path(PipesEnvVarParamsLoader().load_messages_params()['path'])",
        "messages.unlink()",
        "messages.symlink_to('/dev/full')",
    )
    flows.write("flow.py", _flow(*lose_reports, STOPPED))
    started = time.monotonic()
    result = execute(job_of(flows.compile("flow.py", "--no-package", top_level=S3)))
    assert time.monotonic() - started < PATIENCE_SECONDS
    (failed,) = failures(result, "only")
    reason = "has ended, but its logs and its outcome could not be stored and read: " + SILENT
    assert reason in failure_description(failed)


@pytest.mark.parametrize("silent_from", ["start", "middle"])
def test_resumed_run_fails_when_what_it_resumes_can_not_be_read(cut_off, fragile_shelf, monkeypatch, silent_from):
    flows: Project = cut_off
    # cloning and reporting the start step may take longer than that on a busy machine
    monkeypatch.setenv("METAFLOW_PIPES_REPORT_SECONDS", "60")
    flows.write(
        "flow.py",
        "from metaflow import FlowSpec, step\n\n"
        "class ResumedFlow(FlowSpec):\n"
        "    @step\n    def start(self):\n        self.next(self.middle)\n\n"
        "    @step\n    def middle(self):\n        self.next(self.end)\n\n"
        "    @step\n    def end(self):\n        raise ValueError('on purpose')\n\n"
        "if __name__ == '__main__':\n    ResumedFlow()\n",
    )
    job = job_of(flows.compile("flow.py", "--no-package", top_level=S3))
    origin = execute(job)
    assert "on purpose" in failure_description(failures(origin, "end")[0])

    def silence_server():
        fragile_shelf.process.send_signal(signal.SIGSTOP)
        monkeypatch.setenv("METAFLOW_PIPES_CLONE_SECONDS", "3")

    if silent_from == "start":
        silence_server()
    else:
        job = job.with_hooks({dg.success_hook(name="silence_server")(lambda _: silence_server())})
    started = time.monotonic()
    resumed = execute(job, tags={ORIGIN_RUN_ID_TAG: f"dagster-{origin.run_id}"})
    assert time.monotonic() - started < PATIENCE_SECONDS
    (failed,) = failures(resumed, silent_from)
    description = failure_description(failed)
    assert "did not begin: what it resumes could not be read and cloned: " + SILENT in description


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
    definitions = flows.compile("flow.py", "--no-package", top_level=S3)
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
