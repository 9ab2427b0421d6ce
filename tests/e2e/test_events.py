"""Dagster's event log tells of a step: the records of its code, what it is doing, and why it failed."""

from __future__ import annotations

import logging
import subprocess

import dagster as dg
import pytest
from support import Project, execute, failures, values_of


def _logged(instance: dg.DagsterInstance, run_id: str, step: str) -> list[tuple[int, str]]:
    entries = instance.all_logs(run_id)
    return [(e.level, e.user_message) for e in entries if e.step_key == step and not e.is_dagster_event]


def _run(
    flows: Project, flow: str, *options: str
) -> tuple[dg.ExecuteInProcessResult, dict[str, list[tuple[int, str]]]]:
    with dg.DagsterInstance.ephemeral() as instance:
        result = execute(flows.job(flow, *options), instance=instance)
        return result, {step.key: _logged(instance, result.run_id, step.key) for step in _steps(result)}


def _steps(result: dg.ExecuteInProcessResult):
    return [event.step_handle for event in result.all_events if event.event_type_value == "STEP_START"]


@pytest.fixture(scope="module")
def logging_run(tmp_path_factory):
    flows = Project.of(tmp_path_factory.mktemp("logging") / "project", "logging_step.py")
    result, logged = _run(flows, "logging_step.py")
    assert result.success
    return flows, result, logged


def test_records_from_warning_on_are_events_with_their_level(logging_run):
    _, _, logged = logging_run
    own = [(level, message) for level, message in logged["start"] if message.startswith("shop.")]
    assert own[0] == (logging.WARNING, "shop.training: warning record: {'a': 1}")
    assert own[1] == (logging.WARNING, "shop.training: custom level")
    level, message = own[2]
    assert level == logging.ERROR
    assert message.startswith("shop.training: caught it\nTraceback (most recent call last):")
    assert "KeyError: 'key'" in message
    assert "step_wrapper" not in message
    assert own[3] == (logging.ERROR, "shop.training: from a forked process")
    assert len(own) == 4


def test_forwarding_does_not_change_logging_for_the_step(logging_run):
    flows, result, logged = logging_run
    run, native = flows.run_of(result), flows.native_run("logging_step.py")
    assert values_of(run) == values_of(native)
    for step in ("start", "configured"):
        assert run[step].task.stderr == native[step].task.stderr
    assert "my format: configured info" in run["configured"].task.stderr
    assert not any("let through" in message for _, message in logged["configured"])


def test_flood_of_records_is_cut_off(logging_run):
    _, _, logged = logging_run
    records = [message for _, message in logged["flood"] if message.startswith("shop.")]
    assert len(records) == 200
    assert any("has logged 200 records" in message for _, message in logged["flood"])


@pytest.mark.parametrize(
    ("level", "expected"),
    [("info", ["configured info"]), ("error", []), ("off", [])],
)
def test_log_level_option(project, level, expected):
    flows: Project = project("logging_step.py")
    _, logged = _run(flows, "logging_step.py", "--log-level", level)
    configured = [message for _, message in logged["configured"] if message.startswith("shop.")]
    assert configured == [f"shop.training: {message}" for message in expected]
    warnings = [message for _, message in logged["start"] if "warning record" in message]
    assert len(warnings) == (level == "info")
    assert any("caught it" in message for _, message in logged["start"]) == (level != "off")


def test_unknown_log_level_is_refused(project):
    flows: Project = project("one_step.py")
    shown = flows.refuses("one_step.py", "create", "--log-level", "loud")
    assert "--log-level is 'loud'. Use one of debug, info, warning, error, critical, off." in shown


def test_lifecycle_is_told_without_values_of_the_environment(project, monkeypatch):
    monkeypatch.setenv("PLANTED", "planted-value")
    flows: Project = project("flaky.py")
    with dg.DagsterInstance.ephemeral() as instance:
        result = execute(flows.job("flaky.py"), instance=instance)
        entries = instance.all_logs(result.run_id)
        text = "\n".join(entry.user_message for entry in entries) + "".join(map(dg.serialize_value, entries))
    run = f"dagster-{result.run_id}"
    assert f"Attempt 0 of Metaflow task FlakyFlow/{run}/start/start starts." in text
    assert f"Metaflow task FlakyFlow/{run}/start/start finished after " in text
    assert "planted-value" not in text


def test_command_of_each_attempt_is_shown_and_can_be_run(project, monkeypatch):
    monkeypatch.setattr("metaflow_pipes.runtime.inputs.LONGEST_INPUT_PATHS", 100)
    flows: Project = project("printing.py")
    with dg.DagsterInstance.ephemeral() as instance:
        result = execute(flows.job("printing.py"), instance=instance)
        assert result.success
        entries = instance.all_logs(result.run_id)
    told = {entry.step_key: entry.user_message for entry in entries if " starts.\n" in entry.user_message}
    assert {"start", "work[0]", "join", "end"} <= set(told)
    for step_key, option in (("work[2]", "--split-index=2"), ("join", "--input-paths=!")):
        command = told[step_key].partition("\n")[2]
        assert option in command.replace("'", "")
        # as another attempt, since this one is done
        again = command.replace("--retry-count=0", "--retry-count=1")
        ended = subprocess.run(["sh", "-c", again], check=False, capture_output=True)
        assert ended.returncode == 0, ended.stderr
    assert flows.run_of(result)["join"].task.current_attempt == 1


CHAIN = """import json
from metaflow import FlowSpec, retry, step

class ChainFlow(FlowSpec):
    @retry(times=1, minutes_between_retries=0)
    @step
    def only(self):
        print("last words")
        self.outer()

    def outer(self):
        try:
            json.loads("{")
        except ValueError as error:
            raise LookupError("no settings") from error

if __name__ == "__main__":
    ChainFlow()
"""


def _causes(error) -> list:
    return [] if error is None else [error, *_causes(error.cause)]


def test_event_log_has_the_users_traceback_and_causes_of_each_attempt(project):
    flows: Project = project()
    flow = flows.write("flow.py", CHAIN)
    result = flows.run("flow.py")
    attempts = failures(result, "only")
    assert [event.event_type_value for event in attempts] == ["STEP_UP_FOR_RETRY", "STEP_FAILURE"]
    for number, event in enumerate(attempts):
        causes = _causes(event.event_specific_data.error)
        assert f"Step only of flow ChainFlow (attempt {number}) failed: LookupError: no settings" in causes[-3].message
        # the last one says first what happened, and not that the retries are used up
        assert (causes[0].cls_name == "Failure") == (number == 1)
        lookup, decode = causes[-2:]
        assert lookup.message == "LookupError: no settings\n"
        assert lookup.cls_name == "LookupError"
        assert [frame.splitlines()[0] for frame in lookup.stack] == [
            f'  File "{flow}", line 9, in only\n'.rstrip("\n"),
            f'  File "{flow}", line 15, in outer',
        ]
        assert "self.outer()" in lookup.stack[0]
        assert decode.message.startswith("json.decoder.JSONDecodeError: Expecting property name")
        stacks = "".join(frame for error in (lookup, decode) for frame in error.stack)
        assert "step_wrapper" not in stacks
        assert "runpy" not in stacks
        assert "metaflow" not in stacks.replace(str(flows.folder), "")


def test_failure_metadata_says_where_and_how_to_see_more(project):
    flows: Project = project()
    flows.write(
        "flow.py",
        CHAIN.replace('print("last words")', "import sys\n        print(*range(100), sep='\\n', file=sys.stderr)"),
    )
    result = flows.run("flow.py")
    metadata = failures(result, "only")[-1].event_specific_data.user_failure_data.metadata
    assert metadata["pathspec"].value == f"ChainFlow/dagster-{result.run_id}/only/only"
    assert metadata["attempt"].value == 1
    assert "LookupError: no settings" in metadata["traceback"].value
    assert "direct cause" in metadata["traceback"].value
    # the last 50 lines, without the fences around them
    assert len(metadata["stderr"].value.splitlines()) == 52
    command = metadata["logs"].value.strip("`").split()[1:]
    assert "no settings" in flows.metaflow(*command, "--stderr").stdout


def test_flow_file_that_fails_in_the_step_has_only_its_own_frames(project):
    flows: Project = project()
    # before Metaflow is imported, which the report then does
    absent = "if 'METAFLOW_RUN_ID' in os.environ:\n    raise ImportError('not on this machine')\n"
    flow = flows.write("flow.py", CHAIN.replace("import json\n", f"import json, os\n{absent}"))
    event = failures(flows.run("flow.py"), "only")[-1]
    metadata = event.event_specific_data.user_failure_data.metadata
    expected = f'Traceback (most recent call last):\n  File "{flow}", line 3, in <module>\n'
    for text in (metadata["traceback"].value, metadata["stderr"].value):
        assert text.partition("\n")[2].startswith(expected), text


def test_endless_recursion_and_exceptions_without_a_message(project):
    flows: Project = project()
    flows.write(
        "flow.py",
        CHAIN.replace("        self.outer()", "        self.recurse()").replace(
            "    def outer(self):", "    def recurse(self):\n        self.recurse()\n\n    def outer(self):"
        ),
    )
    result = flows.run("flow.py")
    event = failures(result, "only")[-1]
    assert "RecursionError" in failure_description_of_failure(event)
    assert len(dg.serialize_value(event)) < 100_000
    flows.write(
        "flow.py",
        CHAIN.replace(
            "        self.outer()",
            "        class Silent(Exception):\n            def __str__(self):\n"
            "                raise TypeError('no text')\n        raise Silent",
        ),
    )
    result = flows.run("flow.py")
    assert "Silent" in failure_description_of_failure(failures(result, "only")[-1])


def failure_description_of_failure(event: dg.DagsterEvent) -> str:
    return event.event_specific_data.user_failure_data.description


def test_run_has_tags_and_the_metaflow_side_knows_dagster(project):
    flows: Project = project("one_step.py")
    options = ("--tag", "nightly", "--tag", "model:linear", "--tag", "owner:ann b", "--tag", "model:tree")
    with dg.DagsterInstance.ephemeral() as instance:
        result = execute(flows.job("one_step.py", *options), instance=instance)
        tags = instance.get_run_by_id(result.run_id).tags
    assert tags["metaflow/flow"] == "OneStepFlow"
    assert tags["metaflow/run_id"] == f"dagster-{result.run_id}"
    assert tags["metaflow/user"] == "tester"
    assert tags["metaflow.tag/nightly"] == "true"
    assert tags["metaflow.tag/model"] == "linear, tree"
    assert tags["metaflow.tag/owner"] == "ann b"
    run = flows.run_of(result)
    assert f"dagster_run_id:{result.run_id}" in run.system_tags
    assert f"dagster_run_id:{result.run_id}" in run["only"].task.system_tags
    assert "runtime:dagster" in run.system_tags
    assert {"nightly", "model:linear", "owner:ann b", "model:tree"} <= run.user_tags
    metadata = run["only"].task.metadata_dict
    assert metadata["dagster-run-id"] == result.run_id
    assert metadata["dagster-job-name"] == "OneStepFlow"
    assert metadata["dagster-step-key"] == "only"
