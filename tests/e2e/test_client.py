"""Whoever uses Metaflow's client and commands finds what a run by Metaflow itself would have left."""

from __future__ import annotations

import metaflow
import pytest
from support import Project, execute, failures, job_of

HEADER = "import os, sys\nfrom pathlib import Path\nfrom metaflow import FlowSpec, IncludeFile, retry, step\n\n"
MAIN = "\n\nif __name__ == '__main__':\n    SomeFlow()\n"


def _flow(*body: str) -> str:
    return HEADER + "class SomeFlow(FlowSpec):\n" + "\n".join(f"    {line}" for line in body) + MAIN


def test_included_file_is_stored_beside_the_runs(project):
    flows: Project = project()
    # where Metaflow would put it if it took the project's folder for its datastore
    flows.write("data", "a file of the user's")
    flows.write("text.txt", "content")
    flows.write(
        "flow.py", _flow("text = IncludeFile('text', default='text.txt')", "@step", "def only(self):", "    pass")
    )
    result = flows.run("flow.py")
    assert result.success
    assert flows.run_of(result).data.text == "content"
    native = flows.native_run("flow.py")
    stored, native_stored = (run["only"].task["text"] for run in (flows.run_of(result), native))
    assert stored.data == native_stored.data
    assert stored.sha == native_stored.sha


def test_latest_run_is_the_one_that_resume_goes_on_with(project):
    flows: Project = project("flaky.py")
    flows.metaflow("flaky.py", "--no-pylint", "run", check=False)
    result = flows.run("flaky.py")
    assert not result.success
    flows.write("ready", "")
    resumed = flows.metaflow("flaky.py", "--no-pylint", "resume").stdout
    assert f"dagster-{result.run_id}/start/start" in resumed
    assert "Done!" in resumed


def test_parameters_are_stored_once_for_all_attempts(project):
    flows: Project = project()
    flows.write("text.txt", "before")
    flows.write(
        "flow.py",
        _flow(
            "text = IncludeFile('text', default='text.txt')",
            "@retry(times=1, minutes_between_retries=0)",
            "@step",
            "def only(self):",
            "    self.seen = self.text",
            "    if self.text == 'before' and not Path('failed').exists():",
            "        Path('failed').touch()",
            "        Path('text.txt').write_text('after')",
            "        raise ValueError('once more')",
        ),
    )
    result = flows.run("flow.py")
    assert result.success
    run = flows.run_of(result)
    assert run.data.seen == "before"
    entries = [entry.name for entry in run["_parameters"].task.metadata]
    assert entries.count("attempt-done") == 1


def test_attempt_that_fails_before_metaflow_begins_is_an_attempt_of_the_task(project):
    flows: Project = project()
    body = ("@retry(times=1, minutes_between_retries=0)", "@step", "def only(self):", "    pass")
    flows.write("helper.py", "")
    flows.write("flow.py", "import helper\n" + _flow(*body))
    definitions = flows.compile("flow.py")
    flows.write("helper.py", "raise ImportError('helper is broken')\n")
    result = execute(job_of(definitions))
    assert len(failures(result, "only")) == 2
    task = flows.run_of(result)["only"].task
    assert task.current_attempt == 1
    for attempt in (0, 1):
        assert "helper is broken" in metaflow.Task(task.pathspec, attempt=attempt).stderr


@pytest.mark.parametrize(("code", "attempts"), [("return", 1), ("sys.exit(202)", 1), ("os._exit(3)", 2)])
def test_what_no_retry_can_mend_is_not_tried_again(project, code, attempts):
    flows: Project = project()
    flows.write(
        "flow.py",
        _flow(
            "@retry(times=1, minutes_between_retries=0)",
            "@step",
            "def start(self):",
            "    if True:",
            f"        {code}",
            "    self.next(self.end)",
            "@step",
            "def end(self):",
            "    pass",
        ),
    )
    result = flows.run("flow.py")
    assert not result.success
    assert len(failures(result, "start")) == attempts


@pytest.mark.parametrize("code", ["raise ValueError('broken')", "os._exit(3)"])
def test_log_of_a_failed_task_ends_as_by_metaflows_own_runner(project, code):
    flows: Project = project()
    flows.write("flow.py", _flow("@step", "def only(self):", f"    {code}"))
    flows.metaflow("flow.py", "--no-pylint", "run", "--run-id-file", "id", check=False)
    native = flows.metaflow_run("SomeFlow", (flows.folder / "id").read_text())["only"].task
    task = flows.run_of(flows.run("flow.py"))["only"].task
    assert native.stderr.endswith("Task failed.\n")
    assert task.stderr.splitlines()[-2:] == native.stderr.splitlines()[-2:]
