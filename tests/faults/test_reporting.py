"""Reports of steps can be lost or wrong: the outcome stands."""

from __future__ import annotations

import dagster as dg
import pytest
from support import Project, execute, failure_description, failures, materialization, output_metadata, values_of

# Where the step's process writes its messages.
MESSAGES = (
    "def messages():\n    from dagster_pipes import PipesEnvVarParamsLoader\n"
    "    return Path(PipesEnvVarParamsLoader().load_messages_params()['path'])\n\n"
)


def _flow(*body: str, decorators: str = "") -> str:
    return (
        "import atexit, os, sys\nfrom pathlib import Path\nfrom metaflow import FlowSpec, retry, step\n\n"
        + MESSAGES
        + "class ReportingFlow(FlowSpec):\n"
        + f"{decorators}    @step\n    def start(self):\n        self.items = [1, 2]\n"
        + "".join(f"        {line}\n" for line in body)
        + "        self.next(self.work, foreach='items')\n\n"
        + "    @step\n    def work(self):\n        self.next(self.join)\n\n"
        + "    @step\n    def join(self, inputs):\n        self.next(self.end)\n\n"
        + "    @step\n    def end(self):\n        pass\n\n"
        + "if __name__ == '__main__':\n    ReportingFlow()\n"
    )


BREAK_MESSAGES = {
    "gone": "messages().unlink()",
    "a folder": "atexit.register(lambda: (messages().unlink(), messages().mkdir()))",
    "full": "messages().unlink(); messages().symlink_to('/dev/full')",
    "truncated": "messages().write_bytes(b'')",
    "garbage": "messages().write_bytes(b'\\xff\\x00{}[' * 1000 + b'\\n')",
    "unfinished": "messages().open('ab').write(b'{\"method\": ')",
}


@pytest.mark.parametrize("how", BREAK_MESSAGES)
def test_task_that_is_done_stays_done_when_messages_are_lost(project, how):
    flows: Project = project()
    flows.write("flow.py", _flow(BREAK_MESSAGES[how]))
    with dg.DagsterInstance.ephemeral() as instance:
        result = execute(flows.job("flow.py"), instance=instance)
        messages = [entry.user_message for entry in instance.all_logs(result.run_id) if entry.step_key == "start"]
    assert result.success
    assert flows.run_of(result).successful
    assert len(list(flows.run_of(result)["work"])) == 2
    assert materialization(result, "start").metadata["pathspec"].value.endswith("/start/start")
    if how == "garbage":
        assert any("A message that the step sent to Dagster can't be used" in message for message in messages)


@pytest.mark.parametrize("how", ["gone", "a folder", "full", "unfinished"])
def test_failure_is_told_when_messages_are_lost_and_the_retry_is_clean(project, how):
    flows: Project = project()
    body = (
        "from metaflow import current",
        "if current.retry_count == 0:",
        f"    {BREAK_MESSAGES[how]}",
        "    print('last words')",
        "    raise ValueError('broken on purpose')",
    )
    flows.write("flow.py", _flow(*body, decorators="    @retry(times=1, minutes_between_retries=0)\n"))
    result = flows.run("flow.py")
    assert result.success
    (failed,) = failures(result, "start")
    assert "ValueError: broken on purpose" in failure_description(failed)
    task = flows.run_of(result)["start"].task
    assert task.current_attempt == 1
    log = flows.folder / f".metaflow/ReportingFlow/dagster-{result.run_id}/start/start/0.runtime_stdout.log"
    assert "last words" in log.read_text()
    assert output_metadata(result, "work[0]")["attempt"].value == 0


def test_step_that_closes_or_replaces_its_streams(project):
    flows: Project = project()
    for body in (
        "sys.stdout.close(); sys.stderr.close()",
        "os.close(1); os.close(2)",
        "sys.stdout = sys.stderr = None",
        "sys.stdout = open(os.devnull, 'w'); sys.stderr = sys.stdout",
    ):
        flows.write("flow.py", _flow("print('before')", body))
        result = flows.run("flow.py")
        assert result.success, body
        assert flows.run_of(result)["start"].task.stdout.strip() == "before"


HOSTILE = (
    "from dagster_pipes import PipesContext",
    "import json",
    "pipes = PipesContext.get()",
    "pipes.report_custom_message({'metaflow_task': {'next_steps': ['end'], 'num_splits': 10**6}})",
    "pipes.report_custom_message({'metaflow_task': 'nonsense'})",
    "table = {'type': 'table', 'raw_value': 'nonsense'}",
    "pipes.report_asset_materialization({'rows': table}, asset_key='hostile/table')",
    "pipes.report_asset_materialization({'text': 'x' * 3_000_000}, asset_key='hostile/huge')",
    "pipes.report_asset_materialization({'x': 1}, asset_key='../..\\\\n\"; drop/' + 'k' * 5000)",
    "messages().open('a').write(json.dumps({'method': 'report_asset_materialization', 'params': 7}) + '\\n')",
)


def test_hostile_reports_are_refused_and_break_nothing(project):
    flows: Project = project()
    flows.write("flow.py", _flow(*HOSTILE))
    with dg.DagsterInstance.ephemeral() as instance:
        result = execute(flows.job("flow.py"), instance=instance)
        messages = [entry.user_message for entry in instance.all_logs(result.run_id) if entry.step_key == "start"]
    assert result.success
    refused = [message for message in messages if "can't be used" in message]
    assert len(refused) >= 3
    assert all(len(message) <= 600 for message in refused)
    keys = {event.asset_key.path[-1] for event in result.get_asset_materialization_events()}
    assert {"start", "work", "join", "end"} <= keys
    assert not {"table", "huge"} & keys
    assert values_of(flows.run_of(result))["start"]["items"] == [1, 2]


def test_step_with_another_version_of_this_package_fails_and_says_so(project):
    flows: Project = project()
    # as if the package had been upgraded while Dagster runs: a later version in the step's process alone
    flows.write("sitecustomize.py", "import step_wrapper.wire\nstep_wrapper.wire.VERSION += 1\n")
    decorator = f"    @environment(vars={{'PYTHONPATH': {str(flows.folder)!r}}})\n"
    flows.write("flow.py", "from metaflow import environment\n" + _flow("pass", decorators=decorator))
    result = flows.run("flow.py")
    (event,) = failures(result, "start")
    assert "use versions of metaflow-pipes that do not understand each other" in failure_description(event)
    assert "restart Dagster's processes" in failure_description(event)
