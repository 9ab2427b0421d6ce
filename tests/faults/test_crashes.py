"""A step that does not end well fails, says what happened, keeps its logs, and its next attempt starts clean."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import metaflow
import pytest
from support import Project, execute, failure_description, failures, is_running, job_of

from metaflow_pipes import DagsterCompiler


def _flow(*body: str, retries: int = 0) -> str:
    lines = "".join(f"        {line}\n" for line in body)
    return (
        "import os, resource, signal, subprocess, sys, time\nfrom pathlib import Path\n"
        "from metaflow import FlowSpec, current, retry, step\n\n"
        "class CrashFlow(FlowSpec):\n"
        f"    @retry(times={retries}, minutes_between_retries=0)\n    @step\n    def only(self):\n"
        "        self.attempt = current.retry_count\n        print('last words of attempt', current.retry_count)\n"
        f"        if current.retry_count == 0:\n            self.stale = 1\n{lines}\n"
        "if __name__ == '__main__':\n    CrashFlow()\n"
    )


CRASHES = [
    ("os._exit(0)", "exit code 0 before Metaflow had recorded it as done"),
    ("sys.exit(0)", "exit code 0 before Metaflow had recorded it as done"),
    ("sys.exit(3)", "exit code 3"),
    ("os._exit(7)", "exit code 7"),
    ("raise SystemExit", "exit code 0 before Metaflow had recorded it as done"),
    ("os.kill(os.getpid(), 9)", "killed by signal 9 (SIGKILL): out of memory?"),
    ("import ctypes; ctypes.string_at(0)", "killed by signal 11 (SIGSEGV): segmentation fault"),
    ("os.abort()", "killed by signal 6 (SIGABRT): aborted by the C library or an extension module"),
    ("resource.setrlimit(resource.RLIMIT_AS, (1 << 20, 1 << 20)); x = bytearray(1 << 30)", "MemoryError"),
    ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ("self.lock = __import__('threading').Lock()", "lock"),
    ("raise ValueError('line one\\nline two')", "ValueError: line one\nline two"),
]


@pytest.mark.parametrize(("code", "reason"), CRASHES)
def test_step_that_does_not_end_well_fails_and_its_retry_is_clean(project, code, reason):
    flows: Project = project()
    flows.write("flow.py", _flow("if current.retry_count == 0:", f"    {code}", retries=1))
    result = flows.run("flow.py")
    assert result.success
    (failed,) = failures(result, "only")
    assert "Step only of flow CrashFlow (attempt 0)" in failure_description(failed)
    assert reason in failure_description(failed)
    run = flows.run_of(result)
    task = run["only"].task
    assert task.data.attempt == task.current_attempt == 1
    assert not hasattr(task.data, "stale")
    for attempt in (0, 1):
        stdout = metaflow.Task(task.pathspec, attempt=attempt).stdout
        assert stdout == f"last words of attempt {attempt}\n"


def test_interpreter_that_can_not_start_says_why(project, capfd):
    flows: Project = project()
    source = _flow("pass").replace("import FlowSpec,", "import FlowSpec, environment,")
    nowhere = "    @environment(vars={'PYTHONHOME': '/nowhere'})\n"
    flows.write("flow.py", source.replace("    @retry", f"{nowhere}    @retry"))
    (failed,) = failures(flows.run("flow.py"), "only")
    description = failure_description(failed)
    assert "Step only of flow CrashFlow (attempt 0) failed: its process could not start: exit code 1" in description
    assert "No module named 'encodings'" in description
    metadata = failed.event_specific_data.user_failure_data.metadata
    assert "PYTHONHOME = '/nowhere'" in metadata["stderr"].value
    assert "No module named 'encodings'" in capfd.readouterr().err


def test_failed_run_is_not_successful_in_metaflow(project):
    flows: Project = project()
    flows.write("flow.py", _flow("os._exit(0)"))
    result = flows.run("flow.py")
    assert not result.success
    assert not flows.run_of(result).successful
    assert flows.run_of(result)["only"].task.stdout == "last words of attempt 0\n"


def test_step_that_closes_all_descriptors(project):
    flows: Project = project()
    flows.write("flow.py", _flow("os.closerange(3, 1000)"))
    assert flows.run("flow.py").success
    flows.write("flow.py", _flow("os.closerange(3, 1000)", "raise ValueError('after closing')"))
    (failed,) = failures(flows.run("flow.py"), "only")
    assert "ValueError: after closing" in failure_description(failed)


def test_daemon_that_keeps_the_pipe_open_neither_holds_up_the_op_nor_lives_on(project):
    flows: Project = project()
    flows.write(
        "flow.py",
        _flow(
            "daemon = subprocess.Popen(['sleep', '120'], start_new_session=True)",
            "stubborn = subprocess.Popen(['sh', '-c', 'trap \"\" TERM; sleep 121; sleep 122'], start_new_session=True)",
            "time.sleep(0.5)",
            "self.pids = [daemon.pid, stubborn.pid]",
            "self.ended = time.time()",
        ),
    )
    result = flows.run("flow.py")
    ended = time.time()
    assert result.success
    data = flows.run_of(result).data
    assert ended - data.ended < 5
    assert not any(map(is_running, data.pids))


# Files can't grow beyond this in the step's process: artifacts, logs and messages have no room.
FULL = "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"


def test_full_disk_fails_the_step_with_its_own_error(project):
    flows: Project = project()
    flows.write("flow.py", _flow(f"if current.retry_count == 0: {FULL}", "self.x = 'x' * 100", retries=1))
    result = flows.run("flow.py")
    assert result.success
    (failed,) = failures(result, "only")
    assert "File too large" in failure_description(failed)


def test_error_of_the_step_is_told_when_the_disk_is_full(project):
    flows: Project = project()
    flows.write(
        "flow.py",
        _flow("if current.retry_count == 0:", f"    {FULL}", "    raise ValueError('the step has failed')", retries=1),
    )
    result = flows.run("flow.py")
    assert result.success
    (failed,) = failures(result, "only")
    stderr = metaflow.Task(flows.run_of(result)["only"].task.pathspec, attempt=0).stderr
    assert "the step has failed" in failure_description(failed) + stderr


def test_datastore_that_is_gone_fails_the_step_without_a_hang(project):
    flows: Project = project()
    folder = "Path('.metaflow', 'CrashFlow', current.run_id, 'only')"
    flows.write("flow.py", _flow(f"folder = {folder}", "folder.rename('away')", "folder.write_text('in the way')"))
    started = time.monotonic()
    result = flows.run("flow.py")
    assert time.monotonic() - started < 60
    assert not result.success
    (failed,) = failures(result, "only")
    assert "NotADirectoryError" in failure_description(failed)


def test_flow_file_that_disappears_in_the_middle_of_a_run(project):
    flows: Project = project()
    flows.write(
        "flow.py",
        "from pathlib import Path\nfrom metaflow import FlowSpec, step\n\n"
        "class GoneFlow(FlowSpec):\n    @step\n    def start(self):\n        Path('flow.py').unlink()\n"
        "        self.x = 1\n        self.next(self.end)\n\n    @step\n    def end(self):\n        pass\n\n"
        "if __name__ == '__main__':\n    GoneFlow()\n",
    )
    result = flows.run("flow.py")
    assert not result.success
    assert [event.step_key for event in result.all_events if event.event_type_value == "STEP_SUCCESS"] == ["start"]
    (failed,) = failures(result, "end")
    assert "flow.py, is gone" in failure_description(failed)
    assert flows.run_of(result)["start"].task.data.x == 1


@pytest.mark.parametrize("where", ["step_env", "@environment"])
def test_environment_is_passed_byte_for_byte(project, where):
    flows: Project = project()
    values = {
        "LINES": "one\ntwo\r\n\tthree",
        "QUOTES": "'single' \"double\" `back` \\ $HOME %PATH% $(id) {{ 1 }} {% raw %}",
        "EQUALS": "a=b=c",
        "UNICODE": "żółć 漢字 \U0001f600",
        "EMPTY": "",
        "with space": "x",
        "1.starts-with/digit": "y",
        "ünicode_näme": "z",
        "BIG": "0123456789abcdef" * 7_000,
    }
    decorator = f"    @environment(vars={values!r})\n" if where == "@environment" else ""
    flows.write(
        "flow.py",
        "import os\nfrom metaflow import FlowSpec, environment, step\n\nclass EnvFlow(FlowSpec):\n"
        f"{decorator}    @step\n    def only(self):\n        self.seen = dict(os.environ)\n\n"
        "if __name__ == '__main__':\n    EnvFlow()\n",
    )
    options = [f"--step-env={name}={value}" for name, value in values.items()] if where == "step_env" else []
    result = flows.run("flow.py", None, *options)
    assert result.success
    seen = flows.run_of(result).data.seen
    assert {name: seen.get(name) for name in values} == values


def test_environment_of_a_megabyte(project, monkeypatch):
    flows: Project = project("one_step.py")
    monkeypatch.chdir(flows.folder)
    source = (flows.folder / "one_step.py").read_text()
    flows.write("one_step.py", source.replace("upper()", "upper() + str(len(''.join(os.environ.values())))"))
    flows.write("one_step.py", "import os\n" + (flows.folder / "one_step.py").read_text())
    step_env = {f"BIG_{number}": "x" * 100_000 for number in range(10)}
    definitions = DagsterCompiler("one_step.py", step_env=step_env).write("defs.py")
    result = execute(job_of(definitions))
    assert result.success
    assert int(flows.run_of(result).data.result.removeprefix("HELLO")) >= 1_000_000


def test_twenty_runs_at_once_do_not_disturb_each_other(project):
    flows: Project = project("one_step.py")
    job = job_of(flows.compile("one_step.py"))
    with ThreadPoolExecutor(20) as pool:
        results = list(pool.map(lambda number: execute(job, {"text": f"run {number}"}), range(20)))
    assert all(result.success for result in results)
    for number, result in enumerate(results):
        assert flows.run_of(result).data.result == f"RUN {number}"
