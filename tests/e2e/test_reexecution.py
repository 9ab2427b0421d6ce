"""Re-executing a Dagster run from failure goes on with the same Metaflow run."""

from __future__ import annotations

import dagster as dg
import pytest
from support import Project, persistent

SHORT_RUN_ID = 8
RESUME_TAG = "dagster/is_resume_retry"


@pytest.mark.parametrize(("number", "failing"), [(4, "middle"), (-4, "start")])
def test_reexecution_from_failure_completes_the_metaflow_run(project, number, failing, tmp_path):
    flows: Project = project("flaky.py")
    job = persistent(flows.compile("flaky.py"))
    run_config = {"ops": {"start": {"config": {"number": number}}}}
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        first = dg.execute_job(job, instance, run_config=run_config)
        assert not first.success
        assert not flows.metaflow_run("FlakyFlow", f"dagster-{first.run_id}").successful

        flows.write("ready", "")
        options = dg.ReexecutionOptions.from_failure(first.run_id, instance)
        # the tag is what the UI sets
        second = dg.execute_job(job, instance, reexecution_options=options, tags={RESUME_TAG: "true"})
        assert second.success

    run = flows.metaflow_run("FlakyFlow", f"dagster-{first.run_id}")
    assert run.successful
    assert run.data.result == number * 2 + 1
    again = f"-r{second.run_id[:SHORT_RUN_ID]}"
    assert {task.id for task in run[failing]} == {failing, failing + again}
    assert {task.id for task in run["end"]} == {"end" + again}


def test_reexecution_of_selected_steps_goes_on_with_the_metaflow_run(project, tmp_path):
    flows: Project = project("flaky.py")
    flows.write("ready", "")
    job = persistent(flows.compile("flaky.py"))
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        first = dg.execute_job(job, instance)
        options = dg.ReexecutionOptions(first.run_id, step_selection=["start", "middle"])
        second = dg.execute_job(job, instance, reexecution_options=options)
        assert second.success
    run = flows.metaflow_run("FlakyFlow", f"dagster-{first.run_id}")
    assert len(list(run["start"])) == len(list(run["middle"])) == 2
    assert [task.id for task in run["end"]] == ["end"]


def test_reexecution_of_all_steps_is_a_new_metaflow_run(project, tmp_path):
    flows: Project = project("flaky.py")
    flows.write("ready", "")
    job = persistent(flows.compile("flaky.py"))
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        first = dg.execute_job(job, instance)
        second = dg.execute_job(job, instance, reexecution_options=dg.ReexecutionOptions(parent_run_id=first.run_id))
        assert first.success
        assert second.success
    for result in (first, second):
        run = flows.metaflow_run("FlakyFlow", f"dagster-{result.run_id}")
        assert run.successful
        assert [task.id for task in run["end"]] == ["end"]
