"""The values between ops are kept in the event log of their run, where any process finds them."""

import dagster as dg
import pytest

from metaflow_pipes.io import MetaflowIOManager, values
from metaflow_pipes.io.values import Output, RunValues

SHORT, LONG = "dagster-1/start/start", ";".join(f"dagster-1/work/work-{number}" for number in range(2000))
KEYS = ["0", "1", "1_0", "2"]
# How many characters of an event's metadata the run page can take, of which it loads those of all events.
SMALL = 12_000


@dg.op(out=dg.Out(str, io_manager_key="metaflow_io"))
def short():
    return SHORT


@dg.op(out=dg.Out(str, io_manager_key="metaflow_io"))
def long():
    return LONG


@dg.op(out=dg.DynamicOut(str, io_manager_key="metaflow_io"))
def items():
    for key in KEYS:
        yield dg.DynamicOutput(f"item {key}", mapping_key=key)


@dg.op(out=dg.Out(str, io_manager_key="metaflow_io"), retry_policy=dg.RetryPolicy(max_retries=1))
def work(context: dg.OpExecutionContext, item: str):
    yield dg.Output(f"{item}, attempt {context.retry_number}")
    if context.retry_number == 0 and item == "item 1":
        raise ValueError(item)


@dg.op
def ends(context: dg.OpExecutionContext, one: str, two: str, all_of_them: list[str]):
    context.log.info(f"{one == SHORT} {two == LONG} {all_of_them}")


@dg.graph
def flow():
    ends(short(), long(), items().map(work).collect())


def _run(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    job = flow.to_job(resource_defs={"metaflow_io": dg.IOManagerDefinition.hardcoded_io_manager(MetaflowIOManager())})
    return job.execute_in_process(instance=instance)


@pytest.fixture(scope="module")
def ran():
    with dg.DagsterInstance.ephemeral() as instance:
        result = _run(instance)
        yield instance, result


@pytest.fixture
def queries(monkeypatch) -> list[str]:
    """The runs for which the event log was asked, a page each time."""
    asked: list[str] = []
    ask = dg.DagsterInstance.get_records_for_run

    def noted(self, run_id, *arguments, **options):
        asked.append(run_id)
        return ask(self, run_id, *arguments, **options)

    monkeypatch.setattr(dg.DagsterInstance, "get_records_for_run", noted)
    return asked


EXPECTED = {
    Output("short", "result"): SHORT,
    Output("long", "result"): LONG,
    **{Output("items", "result", key): f"item {key}" for key in KEYS},
    **{Output(f"work[{key}]", "result"): f"item {key}, attempt {int(key == '1')}" for key in KEYS},
}


def test_ops_take_what_others_put_out_without_a_look_into_the_log(queries):
    with dg.DagsterInstance.ephemeral() as instance:
        result = _run(instance)
        assert result.success
        (message,) = [
            entry.user_message for entry in instance.all_logs(result.run_id) if entry.user_message.startswith("True")
        ]
    assert message == f"True True {[text for output, text in EXPECTED.items() if output.step_key.startswith('work')]}"
    assert queries == []


@pytest.mark.parametrize("page", [1, 3, len(EXPECTED), values.PAGE])
def test_another_process_finds_them_in_the_log(ran, monkeypatch, page):
    instance, result = ran
    monkeypatch.setattr(values, "PAGE", page)
    for known in (RunValues(), None):
        found = {output: (known or RunValues()).load(instance, result.run_id, output) for output in EXPECTED}
        assert found == EXPECTED


def test_log_is_read_once_for_all_that_an_op_takes(ran, queries):
    instance, result = ran
    known = RunValues()
    for output in EXPECTED:
        known.load(instance, result.run_id, output)
    assert queries == [result.run_id]


def test_events_are_small(ran):
    instance, result = ran
    handled = instance.all_logs(result.run_id, of_type=dg.DagsterEventType.HANDLED_OUTPUT)
    sizes = {event.step_key: len(str(event.dagster_event.event_specific_data)) for event in handled}
    assert len(LONG) > 3 * SMALL
    assert max(sizes.values()) < SMALL


def test_value_that_the_log_does_not_have_is_a_failure_with_a_cure(ran):
    instance, result = ran
    for run_id, output in [(result.run_id, Output("work[7]", "result")), ("other", Output("short", "result"))]:
        with pytest.raises(dg.Failure) as raised:
            RunValues().load(instance, run_id, output)
        description = str(raised.value.description)
        assert f"run {run_id} does not have the value of output result of step {output.step_key}" in description
        assert "dagster resume" in description
        assert not raised.value.allow_retries


def test_runs_do_not_disturb_each_other_and_the_oldest_are_forgotten(ran):
    instance, _ = ran
    known, output = RunValues(), Output("short", "result")
    names = [f"run {number}" for number in range(values.MAX_KNOWN_RUNS)]
    for name in names:
        known.remember(name, output, f"of {name}")
    assert known.load(instance, names[0], output) == f"of {names[0]}"
    known.remember("one more", output, "last")
    # the one that was used last is not the oldest
    assert [known.load(instance, name, output) for name in (names[0], *names[2:])] == [
        f"of {name}" for name in (names[0], *names[2:])
    ]
    with pytest.raises(dg.Failure, match=rf"run {names[1]} does not have"):
        known.load(instance, names[1], output)
