"""Steps that are forked from a process that has imported Metaflow: as if each had a fresh one, but quicker."""

from __future__ import annotations

import collections
import os
import sys
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from support import Project, path_with_python, persistent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import metaflow

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")

STEPS = ("start", "work", "join", "end")
OWN_WAYS = ("off", "metaflow", "flow")


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test(temp_dir=str(tmp_path_factory.mktemp("dagster"))) as instance:
        yield instance


def _run(definitions: Path, instance: dg.DagsterInstance, **config: Any) -> dg.ExecuteJobResult:
    run_config = {"execution": {"config": config}}
    return dg.execute_job(persistent(definitions), instance, run_config=run_config, raise_on_error=False)


def _warnings(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    """The warnings of a run about how its steps are started."""
    logs = instance.all_logs(run_id)
    return [entry.user_message for entry in logs if "which takes longer than to fork it" in entry.user_message]


@pytest.fixture(scope="module")
def runs(instance, tmp_path_factory) -> dict[str, metaflow.Run]:
    """One flow run by Metaflow itself, and with its steps started in each way."""
    flows = Project.of(tmp_path_factory.mktemp("facts") / "project", "process_facts.py")
    definitions = flows.compile("process_facts.py")
    found = {"native": flows.native_run("process_facts.py", PATH=path_with_python())}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", path_with_python())
        for way in OWN_WAYS:
            result = _run(definitions, instance, warm=way)
            assert result.success
            assert _warnings(instance, result.run_id) == []
            found[way] = flows.metaflow_run("ProcessFactsFlow", f"dagster-{result.run_id}")
    return found


def _data(run: metaflow.Run, step: str) -> Any:
    task: Any = run[step].task
    return task.data


def test_steps_are_forked_unless_that_is_off(runs):
    tasks: dict[str, list[Any]] = {way: [task for step in STEPS for task in runs[way][step]] for way in OWN_WAYS}
    parents = {way: {task.data.parent for task in tasks[way]} for way in OWN_WAYS}
    assert parents["off"] == {os.getpid()}
    # three environments: of the two steps that set variables, and of the others
    for way in ("metaflow", "flow"):
        assert len(parents[way]) == 3
        assert all(b"--warm" in task.data.parent_command for task in tasks[way])


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("way", OWN_WAYS)
def test_process_is_that_of_metaflows_own_run(runs, way, step):
    assert _different(_data(runs[way], step).facts, _data(runs["native"], step).facts) == {}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("way", ["metaflow", "flow"])
def test_forked_process_is_that_of_one_that_was_started(runs, way, step):
    assert _different(_wrapper_facts(runs[way], step), _wrapper_facts(runs["off"], step)) == {}


def _different(facts: dict[str, Any], others: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = facts.keys() | others.keys()
    return {name: (facts.get(name), others.get(name)) for name in names if facts.get(name) != others.get(name)}


def _wrapper_facts(run: metaflow.Run, step: str) -> dict[str, Any]:
    facts = dict(_data(run, step).wrapper)
    # each task has its own files of Dagster's, and each run its name
    for name in ("argv", "orig_argv"):
        facts[name] = [argument.replace(run.id, "RUN") for argument in facts[name]]
    # in a forked process, zeros take the room that was left for it
    facts["cmdline"] = facts["cmdline"].decode().replace(run.id, "RUN").rstrip("\0")
    # the socket to the supervisor may have another number
    facts["descriptors"] = collections.Counter(facts["descriptors"].values())
    facts["inheritable"] = len(facts["inheritable"])
    facts["initial environment"] = dict(item.decode().split("=", 1) for item in facts["initial environment"])
    for name in ("environment", "initial environment"):
        variables = facts[name]
        assert variables["METAFLOW_RUN_ID"] == run.id
        for variable in ("DAGSTER_PIPES_CONTEXT", "DAGSTER_PIPES_MESSAGES"):
            assert variables[variable]
            variables[variable] = "OWN"
        variables["METAFLOW_RUN_ID"] = "RUN"
    return facts


@pytest.mark.parametrize("way", OWN_WAYS)
def test_processes_of_multiprocessing_are_those_of_metaflows_own_run(runs, way):
    children = _data(runs[way], "start").children
    assert children == _data(runs["native"], "start").children
    assert [code for code, _ in children.values()] == [0, 0, 0]


@pytest.mark.parametrize("way", OWN_WAYS)
def test_tasks_draw_different_random_values(runs, way):
    drawn = collections.defaultdict(list)
    tasks = [task for step in STEPS for task in runs[way][step]]
    for task in tasks:
        for source, value in task.data.drawn.items():
            drawn[source].append(value)
    assert {source: len(set(values)) for source, values in drawn.items()} == dict.fromkeys(drawn, len(tasks))


@pytest.mark.parametrize("way", OWN_WAYS)
def test_threads_and_exit_handlers_come_to_their_end(runs, way):
    assert runs[way]["end"].task.stdout == runs["native"]["end"].task.stdout
    assert runs[way]["end"].task.stdout.splitlines()[-2:] == ["thread", "exit handler"]


@pytest.mark.parametrize("way", OWN_WAYS)
def test_start_of_the_interpreter_is_told_by_each_task(runs, way):
    # PYTHONVERBOSE: the modules that are imported
    assert "import 'metaflow" in runs[way]["join"].task.stderr
    assert "import 'metaflow" in runs["native"]["join"].task.stderr


@pytest.mark.parametrize("way", OWN_WAYS)
def test_artifact_of_a_class_of_the_flow_file_is_read_by_later_steps(runs, way):
    assert _data(runs[way], "join").points == [7, 7, 7]


# imports of the flow

IMPORTING_FLOW = """import os
from metaflow import FlowSpec, step
import slow

class ImportingFlow(FlowSpec):
    @step
    def start(self):
        self.items = [0, 1, 2]
        self.next(self.work, foreach="items")

    @step
    def work(self):
        self.value = slow.VALUE
        self.next(self.join)

    @step
    def join(self, inputs):
        self.values = [item.value for item in inputs]
        self.next(self.end)

    @step
    def end(self):
        pass

if __name__ == "__main__":
    ImportingFlow()
"""
SLOW = (
    "import os, sys\nfrom pathlib import Path\nVALUE = 5\nwith Path({file!r}).open('a') as file:\n    file.write('x')\n"
)
THREAD = "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n"


def _importing(flows: Project, instance: dg.DagsterInstance, more: str = "") -> tuple[int, list[str]]:
    """The number of times that the tasks of a run have imported a module, and the warnings of the run."""
    imports = flows.folder / "imports"
    flows.write("slow.py", SLOW.format(file=str(imports)) + more)
    flows.write("flow.py", IMPORTING_FLOW)
    definitions = flows.compile("flow.py", "--warm", "flow")
    assert 'threads(warm="flow")' in definitions.read_text()
    imports.unlink()
    result = _run(definitions, instance)
    assert result.success
    run = flows.metaflow_run("ImportingFlow", f"dagster-{result.run_id}")
    assert _data(run, "join").values == [5, 5, 5]
    return len(imports.read_text()), _warnings(instance, result.run_id)


def test_imports_of_the_flow_are_done_once_for_all_tasks(project, instance):
    assert _importing(project(), instance) == (1, [])


def test_import_that_starts_a_thread_is_done_by_each_task_and_is_told_of_once(project, instance):
    count, warnings = _importing(project(), instance, THREAD)
    # six tasks, and the process that was to do it for them
    assert count == 7
    (warning,) = warnings
    assert "the import of slow starts threads" in warning
    assert "`create --warm metaflow` does without" in warning


# options


def test_option_is_refused_with_another_executor(project):
    flows: Project = project("one_step.py")
    for executor in ("multiprocess", "in_process"):
        refused = flows.refuses("one_step.py", "create", "defs.py", "--warm", "flow", "--executor", executor)
        assert f"--warm can't be used with --executor {executor}" in refused
    assert "--warm is 'hot'. Use one of" in flows.refuses("one_step.py", "create", "defs.py", "--warm", "hot")
    assert not (flows.folder / "defs.py").exists()


COUNTING = "import sys\nif '--warm' in sys.orig_argv:\n    open({file!r}, 'a').write('x')\n"


@pytest.mark.parametrize(
    ("option", "variable", "config", "is_warm"),
    [
        ("metaflow", None, None, True),
        ("off", None, None, False),
        ("metaflow", "off", None, False),
        ("off", "metaflow", None, True),
        ("metaflow", "metaflow", "off", False),
        ("off", "off", "metaflow", True),
    ],
)
def test_run_config_ranks_over_the_variable_over_the_option(
    one_step, instance, monkeypatch, tmp_path, option, variable, config, is_warm
):
    started = tmp_path / "started"
    (tmp_path / "sitecustomize.py").write_text(COUNTING.format(file=str(started)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    if variable is not None:
        monkeypatch.setenv("METAFLOW_PIPES_WARM", variable)
    assert _run(one_step[option], instance, **({} if config is None else {"warm": config})).success
    assert started.exists() is is_warm


@pytest.fixture(scope="module")
def one_step(tmp_path_factory) -> dict[str, Path]:
    """The definitions of a flow by how its steps are to be started."""
    flows = Project.of(tmp_path_factory.mktemp("one_step") / "project", "one_step.py")
    return {way: flows.compile("one_step.py", "--warm", way, to=f"defs_{way}.py") for way in ("metaflow", "off")}


def test_bad_value_of_the_variable_is_told(one_step, instance, monkeypatch):
    monkeypatch.setenv("METAFLOW_PIPES_WARM", "hot")
    result = _run(one_step["metaflow"], instance)
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_run_failure]
    assert "'hot'" in str(failure.event_specific_data)
    assert "METAFLOW_PIPES_WARM" in str(failure.event_specific_data)
    with pytest.raises(dg.DagsterInvalidConfigError, match="hot"):
        _run(one_step["metaflow"], instance, warm="hot")
