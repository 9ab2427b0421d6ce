"""Steps with different variables are forked from processes of their own, and see none of each other's."""

from __future__ import annotations

import os
import sys
from typing import Any

import dagster as dg
import pytest
from support import Project, persistent

from metaflow_pipes.runtime import warm

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only"),
    pytest.mark.usefixtures("all_ends"),
]

VARIABLES_FLOW = """import os
from pathlib import Path
from metaflow import FlowSpec, environment, step

def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

def children_of(pid):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            is_child = int(stat.read_text().rpartition(")")[2].split()[1]) == pid
            found += [stat.parent.name] if is_child and b"--warm" in (stat.parent / "cmdline").read_bytes() else []
        except OSError:
            pass
    return found

def variables_of(pid):
    return Path(f"/proc/{pid}/environ").read_text().split(chr(0))

class VariablesFlow(FlowSpec):
    def record(self):
        self.pid = os.getpid()
        self.parent = parent_of(os.getppid())
        self.warm_processes = len(children_of(parent_of(self.parent)))
        self.seen = {name: value for name, value in os.environ.items() if name.startswith("OF_")}
        self.own = [item for item in variables_of("self") if item.startswith("OF_")]
        self.of_parent = [item for item in variables_of(self.parent) if item.startswith("OF_")]
        told = [f"{name}={os.environ[name]}" for name in ("DAGSTER_PIPES_CONTEXT", "METAFLOW_RUN_ID")]
        self.of_task = [item in variables_of("self") for item in told]
        self.of_task_in_parent = [item in variables_of(self.parent) for item in told]

    @step
    def start(self):
        self.record()
        self.next({branches})
BRANCHES
    @step
    def join(self, inputs):
        self.record()
        self.next(self.end)

    @step
    def end(self):
        self.record()

if __name__ == "__main__":
    VariablesFlow()
"""
BRANCH = """
    @environment(vars={"OF_NAME": "VALUE"})
    @step
    def NAME(self):
        self.record()
        self.next(self.join)
"""
BRANCH_NAMES = ("a", "b", "c", "d", "e", "f")


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The data of the tasks of a flow with seven environments."""
    flows = Project.of(tmp_path_factory.mktemp("variables") / "project")
    branches = "".join(BRANCH.replace("NAME", name).replace("VALUE", f"secret of {name}") for name in BRANCH_NAMES)
    targets = ", ".join(f"self.{name}" for name in BRANCH_NAMES)
    flows.write("flow.py", VARIABLES_FLOW.replace("{branches}", targets).replace("BRANCHES", branches))
    definitions = flows.compile("flow.py", "--max-workers", "2")
    with dg.instance_for_test(temp_dir=str(tmp_path_factory.mktemp("dagster"))) as instance:
        result = dg.execute_job(persistent(definitions), instance, raise_on_error=False)
    assert result.success
    run = flows.metaflow_run("VariablesFlow", f"dagster-{result.run_id}")
    return {step.id: step.task.data for step in run}


def test_each_environment_has_its_own_process_and_four_are_kept(variables):
    parents = {step: data.parent for step, data in variables.items()}
    assert os.getpid() not in parents.values()
    assert len({parents[name] for name in BRANCH_NAMES}) == len(BRANCH_NAMES)
    # with a second step that has just begun
    assert max(data.warm_processes for data in variables.values()) <= warm.MAX_WARM_PROCESSES + 1


def test_no_step_sees_the_variables_of_another(variables):
    for step, data in variables.items():
        expected = {f"OF_{step}": f"secret of {step}"} if step in BRANCH_NAMES else {}
        assert data.seen == expected
        assert data.own == data.of_parent == [f"{name}={value}" for name, value in expected.items()]


def test_variables_of_a_task_are_seen_in_its_process_alone(variables):
    for data in variables.values():
        assert data.of_task == [True, True]
        assert data.of_task_in_parent == [False, False]
