"""An executor that plans all steps before the run: it must not lose the items of a foreach."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg
import pytest
from dagster_dev import wait_until
from support import dagster

if TYPE_CHECKING:
    from pathlib import Path

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


# A stand-in for an executor that comes to its end, and has done the steps that it had planned.
LEAVES_OUT = """
import dagster as dg
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.in_process import InProcessExecutor
from dagster._core.system_config.objects import ResolvedRunConfig


class LeavesOut(InProcessExecutor):
    def execute(self, plan_context, execution_plan):
        job = plan_context.job.get_definition()
        resolved = ResolvedRunConfig.build(job, plan_context.dagster_run.run_config)
        planned = execution_plan.build_subset_plan(["start"], job, resolved)
        plan_data = plan_context.plan_data._replace(execution_plan=planned)
        context = PlanOrchestrationContext(
            plan_data, plan_context.log, plan_context.executor, plan_context.output_capture
        )
        yield from super().execute(context, planned)


@dg.executor(name="leaves_out", requirements=[])
def leaves_out(init_context):
    return LeavesOut(RetryMode.DISABLED)
"""


def test_success_without_the_last_step_is_none(flows, tmp_path):
    flows.write("planner.py", LEAVES_OUT)
    flows.compile("foreach.py", "--executor", "planner:leaves_out", to="foreachflow_dagster.py")
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    waited = flows.metaflow("foreach.py", "dagster", "trigger", "--wait", check=False, DAGSTER_HOME=str(home))
    assert waited.returncode == 1
    assert "the flow's last step, end, never ran" in " ".join(waited.stdout.split())
    wait_until(lambda: run_of(home).status is dg.DagsterRunStatus.FAILURE, "the run to be reported as failed")
    shown = flows.metaflow("foreach.py", "dagster", "status", run_of(home).run_id, DAGSTER_HOME=str(home)).stdout
    assert "FAILED" in shown
    with dg.DagsterInstance.from_config(str(home)) as instance:
        entries = instance.all_logs(run_of(home).run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
    assert ["the flow's last step, end, never ran" in entry.message for entry in entries] == [True]


def run_of(home: Path) -> dg.DagsterRun:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        (run,) = instance.get_runs()
        return run


def test_foreach_fails_under_an_executor_of_python_that_would_skip_its_items(flows):
    flows.compile("foreach.py")
    flows.write(
        "other.py",
        "import dagster_dask\nimport defs\n\nother = defs.ForeachFlow.graph.to_job('other',\n"
        "    executor_def=dagster_dask.dask_executor, resource_defs=defs.ForeachFlow.resource_defs)\n",
    )
    finished = dagster("job", "execute", "-f", "other.py", "-j", "other", cwd=flows.folder)
    assert finished.returncode != 0
    assert "Job other has the executor dask, which can't run the foreach of step start" in finished.stdout
