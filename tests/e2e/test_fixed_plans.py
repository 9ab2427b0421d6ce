"""An executor that plans all steps before the run: it must not lose the items of a foreach."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support import Project

# A stand-in for the executor of dagster-dask, by which the compiler knows it: its package.
STAND_IN = """
import dagster as dg
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.in_process import InProcessExecutor


@dg.executor(name="dask", requirements=[], config_schema={"cluster": dg.Field(dict, is_required=False)})
def dask_executor(init_context):
    return InProcessExecutor(RetryMode.DISABLED)


configured = dask_executor.configured({}, name="configured")
"""


@pytest.fixture
def flows(project) -> Project:
    flows: Project = project("foreach.py", "one_step.py")
    flows.write("dagster_dask.py", STAND_IN)
    return flows


@pytest.mark.parametrize("executor", ["dask_executor", "configured"])
def test_executor_that_would_skip_the_items_of_a_foreach_is_refused(flows, executor):
    shown = flows.refuses("foreach.py", "create", "defs.py", "--executor", f"dagster_dask:{executor}")
    assert f"--executor dagster_dask:{executor} can't run the foreach of step" in " ".join(shown.split())
    assert "threads, multiprocess" in shown
    assert not (flows.folder / "defs.py").exists()
    flows.compile("one_step.py", "--executor", f"dagster_dask:{executor}")


def test_foreach_fails_under_an_executor_of_python_that_would_skip_its_items(flows):
    flows.compile("foreach.py")
    flows.write(
        "other.py",
        "import dagster_dask\nimport defs\n\nother = defs.ForeachFlow.graph.to_job('other',\n"
        "    executor_def=dagster_dask.dask_executor, resource_defs=defs.ForeachFlow.resource_defs)\n",
    )
    command = [sys.executable, "-m", "dagster", "job", "execute", "-f", "other.py", "-j", "other"]
    finished = subprocess.run(command, cwd=flows.folder, capture_output=True, text=True, check=False)
    assert finished.returncode != 0
    assert "Job other has the executor dask, which can't run the foreach of step start" in finished.stderr
