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


@pytest.mark.parametrize("breaks", ["inner-1-0", "odd-1-1", "inner_join-1", "outer_join", "left", "loop-1", "node-1"])
def test_reexecution_runs_what_failed_and_what_hangs_below(project, breaks, tmp_path):
    flows: Project = project("fragile.py")
    job = persistent(flows.compile("fragile.py", "--executor", "in_process"))
    run_config = {"ops": {"start": {"config": {"breaks": breaks}}}}
    notes = flows.folder / "notes"
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        first = dg.execute_job(job, instance, run_config=run_config)
        assert not first.success
        before = notes.read_text().split()
        flows.write("ready", "")
        notes.unlink()
        options = dg.ReexecutionOptions.from_failure(first.run_id, instance)
        second = dg.execute_job(job, instance, reexecution_options=options)
        assert second.success
        messages = [entry.user_message for entry in instance.all_logs(second.run_id)]
    after = notes.read_text().split()
    # the iterations before the one that failed
    cached = [message for message in messages if "its result is cached" in message]
    assert len(cached) == (1 if breaks == "loop-1" else 0)
    assert breaks in after
    everything = {
        *(
            "start",
            "outer-0",
            "outer-1",
            "inner-0-0",
            "inner-0-1",
            "inner-1-0",
            "inner-1-1",
            "inner_join-0",
            "inner_join-1",
        ),
        *("even-0-0", "even-1-0", "odd-0-1", "odd-1-1"),
        *("outer_join", "choose", "left", "loop-0", "loop-1", "loop-2", "node-0", "node-1", "end"),
    }
    assert set(before) | set(after) == everything
    # what had succeeded is not run again; the control task of num_parallel is one Dagster step with its workers
    repeated = {"node-0", "node-1"} if breaks == "node-1" else set()
    assert set(before) & set(after) - repeated == {breaks} - repeated
    run = flows.metaflow_run("FragileFlow", f"dagster-{first.run_id}")
    assert run.successful
    assert (run.data.all_values, run.data.turns, run["node_join"].task.data.ranks) == ([[0, 1], [10, 11]], 3, [0, 1])


@pytest.mark.parametrize("way", ["many", "few", "none"])
def test_reexecution_behind_branches_that_were_not_chosen(project, way, tmp_path):
    flows: Project = project("switches.py")
    source = (flows.folder / "switches.py").read_text()
    last = '        self.final = getattr(self, "result", None)\n'
    flows.write("switches.py", source.replace(last, f'        open("ready").close()\n{last}'))
    job = persistent(flows.compile("switches.py", "--executor", "in_process"))
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        first = dg.execute_job(job, instance, run_config={"ops": {"start": {"config": {"way": way}}}})
        assert not first.success
        flows.write("ready", "")
        options = dg.ReexecutionOptions.from_failure(first.run_id, instance)
        second = dg.execute_job(job, instance, reexecution_options=options)
        assert [event.step_key for event in second.all_events if event.event_type_value == "STEP_SUCCESS"] == ["end"]
    run = flows.metaflow_run("SwitchesFlow", f"dagster-{first.run_id}")
    assert run.successful
    assert run.data.final == {"many": [1, 2], "few": "left", "none": None}[way]


TURNS = """
from pathlib import Path
from metaflow import FlowSpec, step

class TurnsFlow(FlowSpec):
    @step
    def start(self):
        self.items = [0, 1, 2]
        self.next(self.turn, foreach="items")

    @step
    def turn(self):
        self.turns = getattr(self, "turns", 0) + 1
        with Path("notes").open("a") as notes:
            notes.write(f"{self.input}-{self.turns} ")
        if self.input > 0 and self.turns == 2 and not Path("ready").exists():
            raise ValueError("not ready")
        self.go = "on" if self.turns == 3 else "again"
        self.next({"again": self.turn, "on": self.done}, condition="go")

    @step
    def done(self):
        self.next(self.join)

    @step
    def join(self, inputs):
        self.turns = [i.turns for i in inputs]
        self.next(self.end)

    @step
    def end(self):
        pass

if __name__ == "__main__":
    TurnsFlow()
"""


def test_reexecution_of_as_many_items_as_there_are_ops_goes_on_with_the_metaflow_run(project, tmp_path):
    flows: Project = project()
    flows.write("flow.py", TURNS)
    job = persistent(flows.compile("flow.py", "--executor", "in_process"))
    notes = flows.folder / "notes"
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        first = dg.execute_job(job, instance)
        assert notes.read_text().split() == ["0-1", "0-2", "0-3", "1-1", "1-2", "2-1", "2-2"]
        flows.write("ready", "")
        notes.unlink()
        options = dg.ReexecutionOptions.from_failure(first.run_id, instance)
        second = dg.execute_job(job, instance, reexecution_options=options)
        assert second.success
        selected = instance.get_run_by_id(second.run_id).step_keys_to_execute
        assert len(selected) >= len(job.get_definition().nodes)
        event = instance.get_latest_materialization_event(dg.AssetKey(["TurnsFlow", "turn"]))
    # the iterations before the ones that failed are not repeated
    assert sorted(notes.read_text().split()) == ["1-2", "1-3", "2-2", "2-3"]
    assert event.asset_materialization.metadata["items"].value == 3
    run = flows.metaflow_run("TurnsFlow", f"dagster-{first.run_id}")
    assert run.successful
    assert run["join"].task.data.turns == [3, 3, 3]
