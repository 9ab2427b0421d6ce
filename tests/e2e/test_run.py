"""A compiled file runs in every way that Dagster runs one, from anywhere, also after it has moved."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from support import DAGSTER, Project, dagster, execute, failure_description, failures, job_of, values_of

from metaflow_pipes.runtime import MetaflowFlowWarning

if TYPE_CHECKING:
    from pathlib import Path


def _only_run(flows: Project, folder: Path, flow: str):
    (run_id,) = [entry.name for entry in (folder / ".metaflow" / flow).iterdir() if entry.name.startswith("dagster-")]
    return Project(folder).metaflow_run(flow, run_id)


def test_job_execute_from_another_directory_after_a_move(project, tmp_path):
    flows: Project = project("split.py")
    flows.compile("split.py")
    moved = tmp_path / "moved here"
    shutil.move(flows.folder, moved)
    (tmp_path / "elsewhere").mkdir()
    command = [DAGSTER, "job", "execute", "-f", str(moved / "defs.py"), "-j", "SplitFlow"]
    finished = subprocess.run(command, cwd=tmp_path / "elsewhere", capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
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
    finished = dagster("definitions", "validate", "-f", str(definitions), cwd=tmp_path)
    assert finished.returncode == 0, finished.stdout
    assert "Validation successful" in finished.stdout


@pytest.mark.parametrize("executor", ["threads", "multiprocess", "in_process"])
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
    finished = dagster(*command, cwd=tmp_path, DAGSTER_HOME=str(home))
    assert finished.returncode == 0, finished.stdout
    with dg.DagsterInstance.from_config(str(home)) as instance:
        (run,) = instance.get_runs()
        records = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.LOGS_CAPTURED).records
        events = [record.event_log_entry.get_dagster_event() for record in records]
        logs = [
            instance.compute_log_manager.get_log_data([run.run_id, "compute_logs", event.logs_captured_data.file_key])
            for event in events
        ]
    assert len(events) == (1 if executor == "in_process" else 2)
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


def _flow(body: str, header: str = "") -> str:
    return (
        f"{header}import os, sys\nfrom metaflow import FlowSpec, step\n\n"
        f"class BodyFlow(FlowSpec):\n    @step\n    def start(self):\n{body}\n"
        "        self.next(self.end)\n\n    @step\n    def end(self):\n        pass\n\n"
        "if __name__ == '__main__':\n    BodyFlow()\n"
    )


@pytest.mark.parametrize("taken", ["return", "self.next(self.end); return"])
def test_step_that_leaves_the_graph_fails_as_in_metaflow(project, taken):
    flows: Project = project()
    flows.write(
        "flow.py",
        "from metaflow import FlowSpec, step\n\n"
        f"class LeavingFlow(FlowSpec):\n    @step\n    def start(self):\n        if True:\n            {taken}\n"
        "        self.next(self.a)\n\n    @step\n    def a(self):\n        self.next(self.end)\n\n"
        "    @step\n    def end(self):\n        pass\n\nif __name__ == '__main__':\n    LeavingFlow()\n",
    )
    native = flows.metaflow("flow.py", "--no-pylint", "run", check=False)
    assert native.returncode == 1
    assert "expected to transition" in native.stdout
    result = flows.run("flow.py")
    (failed,) = failures(result, "start")
    assert "was expected to go on to a by self.next()" in failure_description(failed)
    assert not flows.run_of(result).successful


def test_flow_file_is_compiled_as_python_compiles_it(project):
    flows: Project = project()
    body = (
        "        self.kind = str(Point.__annotations__['x'])\n"
        "        self.main = sorted(n for n in globals() if n[:2] == '__')"
    )
    flows.write("flow.py", _flow(body, header="class Point:\n    x: int = 0\n\n"))
    result = flows.run("flow.py")
    data, native = flows.run_of(result)["start"].task.data, flows.native_run("flow.py")["start"].task.data
    assert data.kind == native.kind == "<class 'int'>"
    assert data.main == native.main


def test_step_that_fails_before_metaflow_knows_it_has_its_logs(project):
    flows: Project = project()
    flows.write("helper.py", "")
    flows.write("flow.py", _flow("        pass", header="import helper\n"))
    definitions = flows.compile("flow.py")
    flows.write("helper.py", "raise ImportError('helper is broken')\n")
    result = execute(job_of(definitions))
    (failed,) = failures(result, "start")
    assert "ImportError: helper is broken" in failure_description(failed)
    flows.write("helper.py", "")
    shown = flows.metaflow("flow.py", "logs", f"dagster-{result.run_id}/start", "--stderr").stdout
    assert "helper is broken" in shown


def test_long_or_overwritten_output_keeps_failures_readable_and_small(project):
    flows: Project = project()
    body = (
        "        for percent in range(100):\n            print(f'\\r{percent} %', end='', file=sys.stderr)\n"
        "        print('x' * 3_000_000)\n        raise ValueError('long ' * 100_000)"
    )
    flows.write("flow.py", _flow(body))
    result = flows.run("flow.py")
    (failed,) = failures(result, "start")
    assert len(failure_description(failed)) < 3_000
    metadata = failed.event_specific_data.user_failure_data.metadata
    assert len(metadata["stderr"].value) < 25_000
    assert len(metadata["traceback"].value) < 25_000
    assert "characters" in metadata["stderr"].value
    assert len(flows.run_of(result)["start"].task.stdout) == 3_000_001


def test_last_words_behind_a_progress_bar(project):
    flows: Project = project()
    body = "        print('1 %\\r2 %\\rfatal: it broke', file=sys.stderr)\n        os._exit(4)"
    flows.write("flow.py", _flow(body))
    (failed,) = failures(flows.run("flow.py"), "start")
    assert "failed with exit code 4: fatal: it broke" in failure_description(failed)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_in_a_step(project, method):
    flows: Project = project()
    body = (
        f"        with multiprocessing.get_context('{method}').Pool(2) as pool:\n"
        "            self.powers = pool.map(power, range(4))"
    )
    header = "import multiprocessing\n\ndef power(x):\n    return 2 ** x\n\n"
    flows.write("flow.py", _flow(body, header))
    result = flows.run("flow.py")
    assert result.success
    task = flows.run_of(result)["start"].task
    assert task.data.powers == [1, 2, 4, 8]
    assert "left running" not in task.stderr


def test_step_can_talk_to_dagster_through_pipes(project):
    flows: Project = project()
    body = "        from dagster_pipes import PipesContext\n        PipesContext.get().log.info('hello from the step')"
    flows.write("flow.py", _flow(body))
    with dg.DagsterInstance.ephemeral() as instance:
        result = execute(flows.job("flow.py"), instance=instance)
        assert result.success
        assert "hello from the step" in [entry.user_message for entry in instance.all_logs(result.run_id)]


GC_FLOW = """
import gc

from metaflow import FlowSpec, step

{header}
class CollectingFlow(FlowSpec):
    @step
    def start(self):
        self.threshold = gc.get_threshold()
        self.is_enabled = gc.isenabled()
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    CollectingFlow()
"""


@pytest.mark.parametrize(
    ("header", "threshold"), [("", gc.get_threshold()), ("gc.set_threshold(5000, 7, 9)", (5000, 7, 9))]
)
def test_garbage_is_collected_in_a_step_as_in_any_process(project, header, threshold):
    flows: Project = project()
    flows.write("flow.py", GC_FLOW.format(header=header))
    result = flows.run("flow.py")
    assert result.success
    data = flows.run_of(result)["start"].task.data
    assert data.is_enabled
    assert tuple(data.threshold) == threshold
