"""A step's output is in Dagster as it comes, and in Metaflow's datastore, for each attempt and however it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import dagster as dg
import metaflow
import pytest
from support import DAGSTER, Project, failure_description, failures, is_running, job_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE_SECONDS = 60

# What a step of these tests can call: each waits for something, so that no test depends on the machine's speed.
HELPERS = """
import ctypes, os, signal, sys, time
from pathlib import Path
from metaflow import FlowSpec, current, retry, step, timeout
from step_wrapper.processes import descendants

def wait_for(condition):
    give_up_at = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.001)

def next_save(after=None):
    # the process that saves the logs is a child of the supervisor, as this one is
    found = []
    def is_there():
        found[:] = [pid for pid in descendants(os.getppid()) if pid not in (os.getpid(), after)]
        return found
    wait_for(is_there)
    return found[0]

def stop_next_save():
    pid = next_save()
    os.kill(pid, signal.SIGSTOP)
    Path('saver').write_text(str(pid))

def block_next_save():
    # Metaflow reads its configuration when it is imported
    config = Path(os.environ['METAFLOW_HOME'], 'config.json')
    os.mkfifo(config)
    Path('saver').write_text(str(next_save()))
    time.sleep(1)
    config.unlink()

"""


def _flow(body: str, decorators: str = "") -> str:
    indented = "".join(f"        {line}\n" for line in body.splitlines())
    return (
        f"{HELPERS}class OutputFlow(FlowSpec):\n{decorators}    @step\n    def only(self):\n{indented}\n"
        "if __name__ == '__main__':\n    OutputFlow()\n"
    )


@contextmanager
def _running(flows: Project, home: Path, flow: str = "flow.py", **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """`dagster job execute` of a flow, with its output to be read; ended with this context."""
    definitions = flows.compile(flow)
    home.mkdir()
    process = subprocess.Popen(
        [DAGSTER, "job", "execute", "-f", str(definitions), "-j", job_of(definitions).name],
        cwd=flows.folder,
        env={**os.environ, "DAGSTER_HOME": str(home), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _compute_logs(home: Path, step: str | None = None) -> tuple[bytes, bytes]:
    """Dagster's compute logs of the one run: those of a step, or of all its steps and attempts together."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        logs = []
        for run in instance.get_runs():
            records = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.LOGS_CAPTURED).records
            datas: list[Any] = [record.event_log_entry.get_dagster_event().event_specific_data for record in records]
            of_step = [data for data in datas if step is None or step in data.step_keys]
            keys = [[run.run_id, "compute_logs", data.file_key] for data in of_step]
            logs += map(instance.compute_log_manager.get_log_data, keys)
    return b"".join(log.stdout or b"" for log in logs), b"".join(log.stderr or b"" for log in logs)


def _metaflow_run(flows: Project) -> metaflow.Run:
    (run,) = (flows.folder / ".metaflow").glob("*/dagster-*")
    return flows.metaflow_run(run.parent.name, run.name)


def _eventually(condition: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.1)


def _seen_by_client(flows: Project, task: metaflow.Task) -> dict[str, object]:
    """All that Metaflow shows of a task's output; what it can't show is the error that it raises."""
    seen: dict[str, object] = {}
    for stream in ("stdout", "stderr"):
        try:
            seen[stream] = getattr(task, stream)
        except UnicodeDecodeError as error:
            seen[stream] = (str(error), error.object)
        seen[f"lines of {stream}"] = [line for _, line in task.loglines(stream, as_unicode=False)]
        options = (task.pathspec.partition("/")[2], f"--{stream}", "--timestamps")
        text = flows.metaflow("flow.py", "--quiet", "logs", *options).stdout
        shown = text.encode(errors="surrogateescape").split(b"\n")
        now = len("2000-01-01 00:00:00.000 ")
        seen[f"logs of {stream}"] = [line[now:] if line[:2] == b"20" else line for line in shown]
    return seen


# What the steps of a flow print.
OUTPUTS = {
    "plain": b"plain\n\n  spaces \t\nlast\n",
    "no newline": "no newline at the end: \u00fc \U0001f600".encode(),
    "control characters": (
        b"\r10 %\r100 %\r\nbell \a, escape \x1b[31mred\x1b[0m, NUL \0 and form feed \f\v\n\x85\xe2\x80\xa8\n"
    ),
    "binary": bytes(range(256)) * 3 + b"\n" + os.urandom(100_000),
    # their newlines are for Metaflow's own runner, which hangs at a long line without one
    "10 MB lines": b"x" * 10_000_000 + b"\n" + b"y" * 10_000_000 + b"\n",
    "nothing": b"",
}
PRINTING = ("start", "second", "third", "fourth", "fifth", "end")


@pytest.fixture(scope="module")
def printed(tmp_path_factory) -> tuple[Project, Path, metaflow.Run]:
    """A flow with a step for each output, run on Dagster and by Metaflow: its project, Dagster's home, that run."""
    folder = tmp_path_factory.mktemp("printed")
    flows = Project.of(folder / "project")
    for step, output in zip(PRINTING, OUTPUTS.values(), strict=True):
        (flows.folder / step).write_bytes(output)
    source = "import sys\nfrom metaflow import FlowSpec, step\n\nclass OutputFlow(FlowSpec):\n"
    for step, following in zip(PRINTING, [*PRINTING[1:], None], strict=True):
        source += (
            f"    @step\n    def {step}(self):\n        output = open('{step}', 'rb').read()\n"
            "        sys.stdout.buffer.write(output)\n        sys.stderr.buffer.write(output)\n"
            + (f"        self.next(self.{following})\n" if following else "")
        )
    flows.write("flow.py", f"{source}\nif __name__ == '__main__':\n    OutputFlow()\n")
    # by default, Metaflow's own runner cuts logs off at 10 MB
    native = flows.native_run("flow.py", "--max-log-size=100")
    with _running(flows, folder / "home") as process:
        console, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, console
    return flows, folder / "home", native


@pytest.mark.parametrize(("step", "output"), zip(PRINTING, OUTPUTS.values(), strict=True), ids=OUTPUTS)
def test_output_is_the_same_as_after_metaflows_own_run(printed, step, output):
    flows, home, native = printed
    stdout, stderr = _compute_logs(home, step)
    assert stdout == output
    assert output in stderr
    run = _metaflow_run(flows)
    assert _seen_by_client(flows, run[step].task) == _seen_by_client(flows, native[step].task)


def test_unfinished_lines_arrive_while_the_step_runs(project, tmp_path):
    flows: Project = project()
    body = (
        "print('python 10 %', end='')\n"
        "ctypes.CDLL(None).printf(b'\\rC 20 %%')\n"
        "os.system('printf \"\\\\rshell 30 %%\"')\n"
        "wait_for(Path('seen').exists)"
    )
    flows.write("flow.py", _flow(body))
    with _running(flows, tmp_path / "home") as process:
        _eventually(lambda: b"python 10 %\rC 20 %\rshell 30 %" in _compute_logs(tmp_path / "home")[0])
        flows.write("seen", "")
        process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0


def test_logs_are_in_metaflows_datastore_while_the_step_runs(project, tmp_path):
    flows: Project = project()
    body = (
        "print('attempt', current.retry_count)\n"
        "assert current.retry_count\n"
        "print('half a line', end='')\n"
        "ctypes.PyDLL(None).system(b'for i in $(seq 600); do [ -e seen ] && break; sleep 0.1; done')  # holds the GIL\n"
        "print(', the rest')"
    )
    flows.write("flow.py", _flow(body, "    @retry(times=1, minutes_between_retries=0)\n"))
    with _running(flows, tmp_path / "home", METAFLOW_PIPES_LOG_SAVE_SECONDS="0.5") as process:
        log = "OutputFlow/dagster-*/only/only/1.runtime_stdout.log"
        _eventually(lambda: list((flows.folder / ".metaflow").glob(log)))
        (log_file,) = (flows.folder / ".metaflow").glob(log)
        _eventually(lambda: b"half a line" in log_file.read_bytes())
        saved = log_file.stat()
        run = _metaflow_run(flows)
        assert not run["only"].task.finished
        assert run["only"].task.stdout == "attempt 1\nhalf a line\n"
        assert "half a line" in flows.metaflow("flow.py", "logs", f"{run.id}/only").stdout
        # without new output, nothing is saved
        time.sleep(1.5)
        assert log_file.stat().st_mtime_ns == saved.st_mtime_ns
        flows.write("seen", "")
        console, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, console
    assert b"metaflow-pipes:" not in console
    task = _metaflow_run(flows)["only"].task
    assert task.stdout == "attempt 1\nhalf a line, the rest\n"
    assert metaflow.Task(task.pathspec, attempt=0).stdout == "attempt 0\n"


def test_nothing_is_saved_of_a_silent_step(project, monkeypatch):
    monkeypatch.setenv("METAFLOW_PIPES_LOG_SAVE_SECONDS", "0.5")
    flows: Project = project()
    flows.write("flow.py", _flow("time.sleep(1.5)\nself.saved = list(map(str, Path('.metaflow').glob('**/*.log')))"))
    result = flows.run("flow.py")
    assert flows.run_of(result).data.saved == []


def test_save_that_hangs_holds_nothing_up(project, monkeypatch, capfd):
    monkeypatch.setenv("METAFLOW_PIPES_LOG_SAVE_SECONDS", "0.5")
    flows: Project = project()
    body = (
        "print('early')\n"
        "stop_next_save()\n"
        "print('late')\n"
        "time.sleep(2)\n"
        "self.running = len(descendants(os.getppid()))\n"
        "self.ended = time.time()\n"
        # the process of the step itself makes the last save
        "from metaflow.datastore.task_datastore import TaskDataStore\n"
        "save_logs = TaskDataStore.save_logs\n"
        "def last_save(*args):\n"
        "    Path('running at last').write_text(str(len(descendants(os.getppid()))))\n"
        "    save_logs(*args)\n"
        "TaskDataStore.save_logs = last_save"
    )
    flows.write("flow.py", _flow(body))
    result = flows.run("flow.py")
    assert result.success
    run = flows.run_of(result)
    assert time.time() - run.data.ended < 15
    assert run.data.running == 2, "there is the step, and one save"
    assert (flows.folder / "running at last").read_text() == "1", "an older save could replace the last one"
    assert run["only"].task.stdout == "early\nlate\n"
    assert "metaflow-pipes:" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("hang", "end", "reason"),
    [
        ("stop", "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM]); time.sleep(60)", "timed out after 5 s"),
        ("block", "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM]); time.sleep(60)", "timed out after 5 s"),
        ("stop", "os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    ],
    ids=["stopped, out of time", "blocked, out of time", "stopped, killed"],
)
def test_save_that_hangs_when_the_step_is_ended(project, monkeypatch, tmp_path, capfd, hang, end, reason):
    monkeypatch.setenv("METAFLOW_PIPES_LOG_SAVE_SECONDS", "0.5")
    monkeypatch.setenv("METAFLOW_HOME", str(tmp_path))
    flows: Project = project()
    flows.write("flow.py", _flow(f"print('last words')\n{hang}_next_save()\n{end}", "    @timeout(seconds=5)\n"))
    result = flows.run("flow.py")
    (failed,) = failures(result, "only")
    assert reason in failure_description(failed)
    assert flows.run_of(result)["only"].task.stdout.startswith("last words\n")
    assert not is_running(int((flows.folder / "saver").read_text()))
    assert "metaflow-pipes:" not in capfd.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, processes don't die with their parents")
def test_save_dies_with_the_supervisor(project, monkeypatch, tmp_path):
    monkeypatch.setenv("METAFLOW_PIPES_LOG_SAVE_SECONDS", "0.5")
    monkeypatch.setenv("METAFLOW_HOME", str(tmp_path))
    flows: Project = project()
    flows.write(
        "flow.py", _flow("print('early')\nblock_next_save()\nos.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(60)")
    )
    assert not flows.run("flow.py").success
    _eventually(lambda: not is_running(int((flows.folder / "saver").read_text())))


def test_saves_that_fail_give_one_warning(project, monkeypatch, capfd):
    monkeypatch.setenv("METAFLOW_PIPES_LOG_SAVE_SECONDS", "0.5")
    flows: Project = project()
    body = (
        "print('early')\n"
        "stored = Path('.metaflow', current.pathspec)\n"
        "stored.rename('away')\n"
        "stored.write_text('in the way')\n"
        "first = next_save()\n"
        "next_save(after=next_save(after=first))\n"
        "wait_for(lambda: descendants(os.getppid()) == [os.getpid()])\n"
        "stored.unlink()\n"
        "Path('away').rename(stored)\n"
        "print('late')"
    )
    flows.write("flow.py", _flow(body))
    result = flows.run("flow.py")
    assert result.success
    (warning,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("metaflow-pipes:")]
    assert "logs could not be saved while the step runs" in warning
    assert "FileExistsError" in warning or "NotADirectoryError" in warning
    assert flows.run_of(result)["only"].task.stdout == "early\nlate\n"


def test_interval_that_is_no_number_gives_a_warning(project, monkeypatch, capfd):
    monkeypatch.setenv("METAFLOW_PIPES_LOG_SAVE_SECONDS", "often")
    flows: Project = project("one_step.py")
    assert flows.run("one_step.py").success
    assert "METAFLOW_PIPES_LOG_SAVE_SECONDS is no number of seconds: 'often'" in capfd.readouterr().err


def test_attempts_keep_their_logs_however_they_end(project, tmp_path):
    flows: Project = project("endings.py")
    with _running(flows, tmp_path / "home", "endings.py") as process:
        process.communicate(timeout=2 * PATIENCE_SECONDS)
    assert process.returncode != 0
    compute_logs = _compute_logs(tmp_path / "home")
    run = _metaflow_run(flows)
    for step in ("raises", "killed", "crashes", "overtime"):
        for attempt in (0, 1):
            said = f"{step} says\nin attempt {attempt}"
            assert all(said.encode() in log for log in compute_logs)
            task = metaflow.Task(run[step].task.pathspec, attempt=attempt)
            assert task.stdout == f"{said}\n"
            assert task.stderr.startswith(said)
            assert f"attempt {1 - attempt}" not in task.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_supervisor_holds_no_output_in_memory(project):
    flows: Project = project()
    body = (
        "for _ in range(60):\n"
        "    print('x' * 1_000_000, end='')\n"
        "for _ in range(2_000_000):\n    pass\n"
        "status = Path('/proc', str(os.getppid()), 'status').read_text().splitlines()\n"
        "(self.kilobytes,) = [int(line.split()[1]) for line in status if line.startswith('VmHWM')]"
    )
    flows.write("flow.py", _flow(body))
    result = flows.run("flow.py")
    assert result.success
    assert flows.run_of(result).data.kilobytes < 50_000
    assert len(flows.run_of(result)["only"].task.stdout) == 60_000_001
