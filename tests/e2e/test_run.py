"""A compiled file runs in every way that Dagster runs one, from anywhere, also after it has moved."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest
from support import Project, execute, failure_description, failures, is_running, job_of, values_of

from metaflow_pipes.runtime import MetaflowFlowWarning

DAGSTER = str(Path(sys.executable).parent / "dagster")


def _dagster(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [DAGSTER, *arguments],
        cwd=cwd,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def _only_run(flows: Project, folder: Path, flow: str):
    (run_id,) = [entry.name for entry in (folder / ".metaflow" / flow).iterdir() if entry.name.startswith("dagster-")]
    return Project(folder).metaflow_run(flow, run_id)


def test_job_execute_from_another_directory_after_a_move(project, tmp_path):
    flows: Project = project("split.py")
    flows.compile("split.py")
    moved = tmp_path / "moved here"
    shutil.move(flows.folder, moved)
    (tmp_path / "elsewhere").mkdir()
    finished = _dagster("job", "execute", "-f", str(moved / "defs.py"), "-j", "SplitFlow", cwd=tmp_path / "elsewhere")
    assert finished.returncode == 0, finished.stdout
    run = _only_run(flows, moved, "SplitFlow")
    assert run.successful
    assert values_of(run)["end"]["result"][0] == 6
    assert not flows.folder.exists()
    assert os.listdir(tmp_path / "elsewhere") == []


def test_steps_run_where_the_flow_was_compiled(project, tmp_path):
    flows: Project = project()
    for folder in ("flows", "definitions", "data"):
        (flows.folder / folder).mkdir()
    flows.write("data/numbers.txt", "1 2 3")
    flows.write(
        "flows/flow.py",
        "from metaflow import FlowSpec, card, step\n\n"
        "class FolderFlow(FlowSpec):\n    @card\n    @step\n    def only(self):\n"
        "        self.numbers = open('data/numbers.txt').read()\n\n"
        "if __name__ == '__main__':\n    FolderFlow()\n",
    )
    definitions = flows.compile("flows/flow.py", to="definitions/defs.py")
    result = execute(job_of(definitions))
    assert result.success
    assert flows.run_of(result).data.numbers == "1 2 3"
    assert "html" in flows.metaflow("flows/flow.py", "card", "get", f"dagster-{result.run_id}/only/only").stdout
    assert not (flows.folder / "flows" / ".metaflow").exists()


def test_definitions_validate_from_another_directory(project, tmp_path):
    flows: Project = project("parameters.py")
    flows.write("data.txt", "x")
    definitions = flows.compile("parameters.py")
    finished = _dagster("definitions", "validate", "-f", str(definitions), cwd=tmp_path)
    assert finished.returncode == 0, finished.stdout
    assert "Validation successful" in finished.stdout


@pytest.mark.parametrize("executor", ["multiprocess", "in_process"])
def test_executors_keep_each_steps_output_in_dagsters_compute_logs(project, executor, tmp_path):
    flows: Project = project()
    flows.write(
        "flow.py",
        "import os, subprocess, sys\nfrom metaflow import FlowSpec, step\n\n"
        "class TalkingFlow(FlowSpec):\n"
        "    @step\n    def start(self):\n        print('python says', 1)\n        os.system('echo shell says 2')\n"
        "        print('to stderr', file=sys.stderr)\n        self.next(self.end)\n\n"
        "    @step\n    def end(self):\n        sys.stdout.write('no newline')\n\n"
        "if __name__ == '__main__':\n    TalkingFlow()\n",
    )
    definitions = flows.compile("flow.py", "--executor", executor)
    home = tmp_path / "home"
    home.mkdir()
    command = ("job", "execute", "-f", str(definitions), "-j", "TalkingFlow")
    finished = _dagster(*command, cwd=tmp_path, DAGSTER_HOME=str(home))
    assert finished.returncode == 0, finished.stdout
    with dg.DagsterInstance.from_config(str(home)) as instance:
        (run,) = instance.get_runs()
        records = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.LOGS_CAPTURED).records
        events = [record.event_log_entry.get_dagster_event() for record in records]
        logs = [
            instance.compute_log_manager.get_log_data([run.run_id, "compute_logs", event.logs_captured_data.file_key])
            for event in events
        ]
    assert len(events) == (2 if executor == "multiprocess" else 1)
    out = b"".join(log.stdout or b"" for log in logs).decode()
    err = b"".join(log.stderr or b"" for log in logs).decode()
    for line in ("python says 1\n", "shell says 2\n", "no newline"):
        assert line in out
    assert "to stderr" in err
    run = flows.metaflow_run("TalkingFlow", f"dagster-{run.run_id}")
    assert run["start"].task.stdout == "python says 1\nshell says 2\n"
    assert run["start"].task.stderr == "to stderr\n"
    assert run["end"].task.stdout.rstrip("\n") == "no newline"
    shown = flows.metaflow("flow.py", "--quiet", "logs", f"{run.id}/start").stdout
    assert "shell says 2" in shown


def test_output_arrives_while_the_step_runs(project):
    flows: Project = project()
    flows.write(
        "flow.py",
        "import time\nfrom metaflow import FlowSpec, step\n\n"
        "class SlowFlow(FlowSpec):\n    @step\n    def only(self):\n        print('early line')\n"
        "        time.sleep(4)\n        print('late line')\n\nif __name__ == '__main__':\n    SlowFlow()\n",
    )
    definitions = flows.compile("flow.py", "--executor", "in_process")
    process = subprocess.Popen(
        [DAGSTER, "job", "execute", "-f", str(definitions), "-j", "SlowFlow"],
        cwd=flows.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    arrivals = {}
    for line in process.stdout:
        arrivals[line.strip()] = time.monotonic()
    assert process.wait() == 0
    assert arrivals["late line"] - arrivals["early line"] > 2


def test_changed_flow_gives_a_warning_when_loaded_and_in_the_run(project):
    flows: Project = project("one_step.py")
    definitions = flows.compile("one_step.py")
    source = flows.folder / "one_step.py"
    source.write_text(source.read_text().replace("upper()", "title()"))
    with pytest.warns(MetaflowFlowWarning, match="has changed since") as caught:
        job = job_of(definitions)
    assert "dagster create defs.py" in str(caught[0].message)
    with dg.DagsterInstance.ephemeral() as instance:
        result = execute(job, instance=instance)
        assert result.success
        messages = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert any("has changed since" in message for message in messages)
    assert flows.run_of(result).data.result == "Hello"


def test_missing_flow_gives_a_warning_when_loaded_and_a_clear_failure(project):
    flows: Project = project("one_step.py")
    definitions = flows.compile("one_step.py")
    (flows.folder / "one_step.py").unlink()
    with pytest.warns(MetaflowFlowWarning, match="is gone"):
        job = job_of(definitions)
    result = execute(job)
    (failed,) = failures(result, "only")
    assert "is gone" in failure_description(failed)
    assert "Compile the flow again" in failure_description(failed)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("os._exit(0)", "exit code 0 before Metaflow had recorded it as done"),
        ("sys.exit(0)", "exit code 0 before Metaflow had recorded it as done"),
        ("sys.exit(3)", "exit code 3"),
        ("os.kill(os.getpid(), 9)", "killed by signal 9 (SIGKILL): out of memory?"),
        ("os.kill(os.getpid(), 11)", "killed by signal 11 (SIGSEGV): segmentation fault"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("self.lock = __import__('threading').Lock()", "lock"),
        ("raise ValueError('line one\\nline two')", "ValueError: line one\nline two"),
    ],
)
def test_step_that_does_not_end_well_fails_and_says_why(project, code, reason):
    flows: Project = project()
    flows.write(
        "flow.py",
        "import os, sys\nfrom metaflow import FlowSpec, step\n\n"
        "class CrashFlow(FlowSpec):\n    @step\n    def only(self):\n        print('last words')\n"
        f"        {code}\n\nif __name__ == '__main__':\n    CrashFlow()\n",
    )
    result = flows.run("flow.py")
    assert not result.success
    (failed,) = failures(result, "only")
    assert reason in failure_description(failed)
    assert "Step only of flow CrashFlow (attempt 0)" in failure_description(failed)
    assert flows.run_of(result)["only"].task.stdout == "last words\n"
    assert not flows.run_of(result).successful


def test_nothing_is_left_behind(project, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", None)
    flows: Project = project()
    flows.write(
        "flow.py",
        "import subprocess, sys\nfrom metaflow import FlowSpec, step\n\n"
        "class LeavingFlow(FlowSpec):\n    @step\n    def only(self):\n"
        "        daemon = subprocess.Popen(['sleep', '60'], start_new_session=True)\n        self.pid = daemon.pid\n\n"
        "if __name__ == '__main__':\n    LeavingFlow()\n",
    )
    descriptors = set(os.listdir("/proc/self/fd")) if sys.platform == "linux" else None
    result = flows.run("flow.py")
    assert result.success
    assert not is_running(flows.run_of(result).data.pid)
    assert [name for name in os.listdir(temporary) if name.startswith("metaflow-step")] == []
    if descriptors is not None:
        assert len(os.listdir("/proc/self/fd")) <= len(descriptors) + 1


def test_step_ends_when_the_process_of_its_op_is_killed(project):
    flows: Project = project()
    flows.write(
        "flow.py",
        "import os, time\nfrom metaflow import FlowSpec, step\n\n"
        "class EndlessFlow(FlowSpec):\n    @step\n    def only(self):\n        print('running', flush=True)\n"
        "        open('pid', 'w').write(str(os.getpid()))\n        time.sleep(120)\n\n"
        "if __name__ == '__main__':\n    EndlessFlow()\n",
    )
    definitions = flows.compile("flow.py", "--executor", "in_process")
    process = subprocess.Popen(
        [DAGSTER, "job", "execute", "-f", str(definitions), "-j", "EndlessFlow"],
        cwd=flows.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    pid_file = flows.folder / "pid"
    give_up_at = time.monotonic() + 60
    while not (pid_file.exists() and pid_file.read_text()):
        assert time.monotonic() < give_up_at
        time.sleep(0.1)
    process.kill()
    pid = int(pid_file.read_text())
    give_up_at = time.monotonic() + 5
    while is_running(pid):
        assert time.monotonic() < give_up_at, "the step outlived the Dagster process"
        time.sleep(0.1)
