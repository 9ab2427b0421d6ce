"""Steps that the decorator of an extension runs on another system, by the hooks of Metaflow's runtime."""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ended_runs import until
from support import (
    Project,
    execute,
    failure_description,
    failures,
    job_of,
    materialization,
    output_metadata,
    supervisor,
)

from metaflow_pipes.names import (
    DECOSPECS_TAG,
    ORIGIN_RUN_ID_TAG,
    OVERRIDDEN_PARAMETERS_TAG,
    STEP_TO_RERUN_TAG,
    WORKFLOW_TIMEOUT_TAG,
)

if TYPE_CHECKING:
    import dagster as dg
    import metaflow

EXTENSION = Path(__file__).parent.parent / "extension"
# How long a run may take whose job stays in its queue; and how much of that, beside `@timeout`, its step may take.
QUEUE_SECONDS = 10
OVERHEAD_SECONDS = 5


@dataclass
class Ran:
    """A run of ElsewhereFlow."""

    flows: Project
    result: dg.ExecuteInProcessResult
    notes: list[dict[str, Any]]
    environment: dict[str, str]

    @property
    def run(self) -> metaflow.Run:
        return self.flows.run_of(self.result)

    def noted(self, hook: str) -> list[dict[str, Any]]:
        return [note for note in self.notes if note["hook"] == hook]


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Ran:
    folder = tmp_path_factory.mktemp("elsewhere")
    flows = Project.of(folder / "project", "elsewhere.py")
    notes = folder / "notes.jsonl"
    environment = {
        "PYTHONPATH": str(EXTENSION),
        "ELSEWHERE_NOTES": str(notes),
        # where the datastore is, for the system that is elsewhere
        "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(flows.folder),
        "SECRET": "hush",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        options = ("--step-env", "PLAIN=plain", "--step-env", "SECRET")
        flows.metaflow("elsewhere.py", "dagster", "create", "defs.py", *options, cold=True)
        notes.unlink()
        result = execute(job_of(flows.folder / "defs.py"), {"alpha": 2.0})
    return Ran(flows, result, [json.loads(line) for line in notes.read_text().splitlines()], environment)


def test_flow_runs_through_with_retries_and_parameters(ran):
    assert ran.result.success
    assert ran.run.data.results == [2.0, 4.0]
    assert ran.run["start"].task.data.folder != str(ran.flows.folder)
    (raised,) = failures(ran.result, "work[1]")
    assert "failed: ValueError: on purpose" in failure_description(raised)


def test_all_hooks_are_called_as_by_metaflows_runtime(ran):
    created = ran.noted("runtime_task_created")
    assert [(note["task"], note["index"]) for note in created] == [
        ("start", None),
        ("work-0", 0),
        ("work-1", 1),
        ("work-1", 1),
        ("end", None),
        ("end", None),
    ]
    run_id = f"dagster-{ran.result.run_id}"
    assert created[1]["inputs"] == [f"{run_id}/start/start"]
    assert {note["run"] for note in ran.noted("runtime_init")} == {run_id}
    assert [note["attempt"] for note in ran.noted("runtime_step_cli")] == [0, 0, 0, 1, 0, 1]
    (created_ctx,) = ran.noted("runtime_task_created_ctx")
    assert created_ctx["task"] == "join"
    assert {note["phase"] for note in ran.noted("runtime_init_ctx")} == {"launch"}
    assert ran.run["join"].task.data.noted == "join"
    assert [note["phase"] for note in ran.noted("task_pre_step_ctx")] == ["task"]


def test_package_is_built_once_in_a_run(ran):
    assert len({note["pid"] for note in ran.noted("package_init")}) == 1
    assert len({note["url"] for note in ran.noted("runtime_step_cli")}) == 1


def test_fallback_of_catch_runs_here(ran):
    assert ran.run["end"].task.data.problem is not None
    (died,) = failures(ran.result, "end")
    assert "(attempt 0) failed with exit code" in failure_description(died)
    assert "compute" not in output_metadata(ran.result, "end")


def test_step_elsewhere_has_its_variables(ran):
    assert ran.run["join"].task.data.seen == {"color": "green", "plain": "plain", "secret": "hush"}


def test_dagster_shows_the_job_and_what_the_step_made(ran):
    metadata = materialization(ran.result, "start").metadata
    assert metadata["compute"].value == "elsewhere"
    assert metadata["job"].value.startswith("e-")
    assert metadata["items"].value == [1, 2]
    assert "artifacts" in metadata


def test_failure_has_the_users_traceback(ran):
    (raised,) = failures(ran.result, "work[1]")
    data: Any = raised.event_specific_data
    assert "Failure" in str(data.error)


def test_log_of_the_job_is_not_stored_by_the_wrapper_again(ran):
    (task,) = [task for task in ran.run["work"] if task.index == 0]
    assert "Task is starting (status QUEUED)" in task.stdout
    assert "item 1" not in task.stdout


def test_job_is_deleted_and_its_system_told_when_the_run_is_terminated(ran, tmp_path, monkeypatch):
    """The command that waits for the job deletes it when Python ends, and `kill` ends what the run has left."""
    for name, value in ran.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ELSEWHERE_NOTES", str(tmp_path / "notes.jsonl"))
    (tmp_path / "queue").touch()

    def terminate():
        until(lambda: list(tmp_path.glob("queued-*")))
        os.kill(supervisor(), signal.SIGTERM)

    threading.Thread(target=terminate, daemon=True).start()
    result = execute(job_of(ran.flows.folder / "defs.py"))
    (failed,) = failures(result, "start")
    assert "(attempt 0) was terminated" in failure_description(failed)
    assert len(list(tmp_path.glob("deleted-e-*"))) == 1
    assert (tmp_path / f"killed-dagster-{result.run_id}").exists()


def test_queue_is_not_the_time_of_the_step_but_that_of_the_run(ran, project, tmp_path, monkeypatch):
    """A job waits for longer than its step may run, and is deleted when the run's time is over."""
    # of the time that a step may take beyond `@timeout`, most is for slow machines
    (tmp_path / "sitecustomize.py").write_text(
        f"import step_wrapper.supervisor\nstep_wrapper.supervisor.OVERHEAD_SECONDS = {OVERHEAD_SECONDS}\n"
    )
    for name, value in ran.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(EXTENSION)]))
    monkeypatch.setenv("ELSEWHERE_NOTES", str(tmp_path / "notes.jsonl"))
    flows: Project = project("one_step.py")
    job = job_of(flows.compile("one_step.py", "--with", "elsewhere", "--with", "timeout:seconds=1"))
    (tmp_path / "queue").touch()
    result = execute(job, tags={WORKFLOW_TIMEOUT_TAG: str(QUEUE_SECONDS)})
    (failed,) = failures(result, "only")
    assert f"the run exceeded its time limit of {QUEUE_SECONDS} s" in failure_description(failed)
    (queued,) = tmp_path.glob("queued-*")
    (deleted,) = tmp_path.glob("deleted-*")
    assert deleted.name.removeprefix("deleted-") == queued.name.removeprefix("queued-")


def test_one_run_can_be_given_the_decorator(ran, project, tmp_path, monkeypatch):
    flows: Project = project("one_step.py")
    job = job_of(flows.compile("one_step.py"))
    for name, value in ran.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ELSEWHERE_NOTES", str(tmp_path / "notes.jsonl"))
    monkeypatch.setenv("METAFLOW_DATASTORE_SYSROOT_LOCAL", str(flows.folder))
    result = execute(job, tags={DECOSPECS_TAG: '["elsewhere:size=2"]'})
    assert result.success
    assert output_metadata(result, "only")["compute"].value == "elsewhere"


def test_resumed_run_hands_its_own_parameters_to_steps_elsewhere(ran, monkeypatch):
    for name, value in ran.environment.items():
        monkeypatch.setenv(name, value)
    tags = {
        ORIGIN_RUN_ID_TAG: f"dagster-{ran.result.run_id}",
        STEP_TO_RERUN_TAG: "work",
        OVERRIDDEN_PARAMETERS_TAG: '["alpha"]',
    }
    result = execute(job_of(ran.flows.folder / "defs.py"), {"alpha": 3.0}, tags=tags)
    assert result.success
    assert ran.flows.run_of(result).data.results == [3.0, 6.0]
