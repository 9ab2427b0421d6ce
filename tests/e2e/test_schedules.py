"""Runs that `@schedule` starts, by ticks of Dagster's own scheduler."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from scheduler import scheduler
from support import Project, job_of, load, persistent

from metaflow_pipes import DagsterCompiler
from metaflow_pipes.deployment.definitions_file import read_deployment
from metaflow_pipes.errors import CompileError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import metaflow
    from scheduler import Scheduler

# A Friday; the flow is due on weekdays from 9 to 17 h, each half hour.
DUE = datetime(2026, 7, 3, 9, 0, tzinfo=ZoneInfo("Europe/Berlin"))
PARAMETERS = ("--schedule-param", "date={scheduled_time:%Y-%m-%d}", "--schedule-param", "year={scheduled_time:%Y}")
PATIENCE_SECONDS = 120


@pytest.fixture(scope="module")
def flows(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project.of(tmp_path_factory.mktemp("schedules") / "flows", "scheduled.py")


@pytest.fixture(scope="module")
def ticking(flows: Project) -> Iterator[Scheduler]:
    """The scheduler on the flow, which lets one run go on at a time."""
    definitions = flows.compile("scheduled.py", *PARAMETERS, "--no-overlap", "--priority", "7")
    with scheduler(definitions, flows.folder / "dagster_home") as ticking:
        yield ticking


@pytest.fixture(scope="module")
def scheduled_run(ticking: Scheduler, flows: Project) -> dg.DagsterRun:
    """The run of the first tick, which has ended; the second and the third tick came while it was under way."""
    wait = flows.write("wait", "")
    assert ticking.iterate(DUE - timedelta(minutes=1)) == []
    for _ in range(2):  # the daemon may look twice in the same minute
        ticking.iterate(DUE)
    ticking.iterate(DUE + timedelta(minutes=30))
    ticking.iterate(DUE + timedelta(minutes=61))
    wait.unlink()
    (run,) = ticking.instance.get_runs()
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while not run.is_finished and time.monotonic() < give_up_at:
        time.sleep(0.2)
        (run,) = ticking.instance.get_runs()
    assert run.is_success, [entry.message for entry in ticking.instance.all_logs(run.run_id)][-5:]
    return run


@pytest.fixture(scope="module")
def metaflow_run(scheduled_run: dg.DagsterRun, flows: Project) -> metaflow.Run:
    return flows.metaflow_run("ScheduledFlow", f"dagster-{scheduled_run.run_id}")


def test_due_schedule_starts_one_run(scheduled_run: dg.DagsterRun) -> None:
    assert scheduled_run.job_name == "ScheduledFlow"
    assert scheduled_run.tags["dagster/schedule_name"] == "ScheduledFlow_schedule"


def test_scheduled_run_says_when_it_was_due(scheduled_run: dg.DagsterRun, metaflow_run: metaflow.Run) -> None:
    assert scheduled_run.tags["metaflow/scheduled_time"] == "2026-07-03T09:00:00+02:00"
    for tags in (metaflow_run.system_tags, metaflow_run["end"].task.system_tags):
        assert "scheduled" in tags
        assert "scheduled_time:2026-07-03T09:00:00+02:00" in tags


def test_parameters_take_the_time_when_the_run_is_due(metaflow_run: metaflow.Run) -> None:
    assert metaflow_run.data.seen == ("2026-07-03", 0.1, 2026, {"depth": 3})


@pytest.mark.usefixtures("scheduled_run")
def test_tick_is_skipped_while_a_run_is_under_way(ticking: Scheduler, scheduled_run: dg.DagsterRun) -> None:
    skipped = ticking.iterate(DUE + timedelta(minutes=61))[0]
    assert skipped.status.value == "SKIPPED"
    assert skipped.skip_reason == (f"1 run of job ScheduledFlow is under way, of at most 1: {scheduled_run.run_id}.")


def test_run_has_its_priority(scheduled_run: dg.DagsterRun) -> None:
    assert scheduled_run.tags["dagster/priority"] == "7"


def test_reexecution_is_scheduled_as_its_run_was(
    ticking: Scheduler, scheduled_run: dg.DagsterRun, flows: Project
) -> None:
    # Dagster's Python API hands no tags down
    options = dg.ReexecutionOptions(parent_run_id=scheduled_run.run_id)
    with dg.execute_job(
        persistent(flows.folder / "defs.py"),
        ticking.instance,
        run_config=dict(scheduled_run.run_config),
        reexecution_options=options,
    ) as result:
        again = flows.metaflow_run("ScheduledFlow", f"dagster-{result.run_id}")
    assert "scheduled" in again.system_tags


def test_resumed_run_is_not_scheduled(scheduled_run: dg.DagsterRun, flows: Project) -> None:
    job = job_of(flows.folder / "defs.py")
    result = job.execute_in_process(
        run_config=scheduled_run.run_config,
        tags={"metaflow/origin_run_id": f"dagster-{scheduled_run.run_id}"},
    )
    assert "scheduled" not in flows.run_of(result).system_tags


def test_compiler_says_what_starts_the_flow_and_when(flows: Project) -> None:
    shown = flows.metaflow("scheduled.py", "dagster", "create", "defs2.py", *PARAMETERS).stdout
    assert "ScheduledFlow_schedule: starts the flow" in shown
    assert "cron expression `*/30 9-17 * * 1-5` in time zone Europe/Berlin" in shown
    assert "weekday 1 of AWS is Sunday" in shown
    assert "Next: 20" in shown
    assert "need a Dagster daemon: `dagster dev` includes one" in shown


def test_schedule_runs_unless_it_is_deployed_paused(flows: Project) -> None:
    for options, status in (((), "RUNNING"), (("--paused",), "STOPPED")):
        definitions = flows.compile("scheduled.py", *PARAMETERS, *options, to="paused.py")
        schedule = load(definitions).defs.resolve_schedule_def("ScheduledFlow_schedule")
        assert schedule.default_status.value == status
        assert schedule.execution_timezone == "Europe/Berlin"
    assert read_deployment(definitions).name == "ScheduledFlow"


def test_required_parameter_without_value_is_refused(flows: Project) -> None:
    shown = flows.refuses("scheduled.py", "create", "defs3.py")
    assert "required parameter date" in shown
    assert "--schedule-param date=VALUE" in shown
    assert not (flows.folder / "defs3.py").exists()


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("date={when}", "'{when}' is no template (KeyError: 'when')"),
        ("date={scheduled_time:%Y", "is no template"),
        ("date={scheduled_time.week}", "is no template"),
        ("date={}", "is no template"),
        ("year={scheduled_time:%A}", "'Tuesday' is no value of the parameter's type int"),
        ("year=soon", "'soon' is no value of the parameter's type int"),
        ('settings={"depth": 3}', "other braces are written twice"),
        ("rate=1", "names the parameter rate, which flow ScheduledFlow does not have"),
        ("date", "'date' is not of the form NAME=VALUE"),
        ("date=y", "date has several values"),
    ],
)
def test_schedule_param_that_can_not_be_used_is_refused(flows: Project, option: str, problem: str) -> None:
    others = () if "{" in option else ("--schedule-param", "date=x")
    assert problem in flows.refuses("scheduled.py", "create", "defs3.py", *others, "--schedule-param", option)


def test_overlap_options_exclude_each_other(flows: Project) -> None:
    shown = flows.refuses(
        "scheduled.py", "create", "defs3.py", *PARAMETERS, "--no-overlap", "--max-concurrent-runs", "2"
    )
    assert "--no-overlap and --max-concurrent-runs are given" in shown
    shown = flows.refuses("scheduled.py", "create", "defs3.py", *PARAMETERS, "--max-concurrent-runs", "0")
    assert "at least one run has to be allowed" in shown


def config_of(**values: str) -> tuple[str, ...]:
    """A value of the flow's `Config`, as an option of Metaflow."""
    return ("--config-value", "when", json.dumps({"cron": "0 10 * * ? *", "timezone": "UTC", **values}))


@pytest.mark.parametrize(
    ("values", "problems"),
    [
        ({"cron": "0 10 ? * 6L *"}, ("ScheduledFlow", "`0 10 ? * 6L *`", "day of week", "`6L`")),
        ({"cron": "0 10 * * ? 2026"}, ("@schedule", "the field year is `2026`")),
        ({"cron": "0 99 * * *"}, ("`0 99 * * *`", "valid cron")),
        ({"timezone": "Berlin"}, ("ScheduledFlow", "timezone='Berlin'", "IANA")),
    ],
)
def test_schedule_that_dagster_can_not_hold_is_refused(
    flows: Project, values: dict[str, str], problems: tuple[str, ...]
) -> None:
    shown = flows.refuses("scheduled.py", "create", "defs3.py", *PARAMETERS, top_level=config_of(**values))
    for problem in problems:
        assert problem in shown


@pytest.mark.parametrize(
    ("decorator", "cron"),
    [
        ("hourly=True", "0 * * * *"),
        ("daily=True", "0 0 * * *"),
        ("weekly=True", "0 0 * * SUN"),
        ("", "0 0 * * *"),
        ("daily=False", None),
        ("cron='15 10 * * 1-5'", "15 10 * * 1-5"),
        ("cron='@monthly'", "@monthly"),
        ("cron=lambda context: f'{len(context.flow_name)} 10 * * ? *'", "9 10 * * *"),
        ("weekly=lambda context: True", "0 0 * * SUN"),
    ],
)
def test_decorator_means_what_it_means_to_metaflow(flows: Project, decorator: str, cron: str | None) -> None:
    flows.write(
        "flow.py",
        f"from metaflow import FlowSpec, schedule, step\n\n@schedule({decorator})\nclass DailyFlow(FlowSpec):\n"
        "    @step\n    def only(self):\n        pass\n\nif __name__ == '__main__':\n    DailyFlow()\n",
    )
    definitions = load(flows.compile("flow.py", to="decorated.py")).defs
    schedules = [schedule.cron_schedule for schedule in definitions.get_repository_def().schedule_defs]
    assert schedules == ([] if cron is None else [cron])


def test_values_from_python_keep_their_types(flows: Project) -> None:
    compiler = DagsterCompiler(
        flows.folder / "scheduled.py",
        schedule_parameters={"date": "{{x}}", "settings": {"depth": 4}, "learning_rate": 1, "year": "2020"},
        max_concurrent_runs=3,
    )
    text = compiler.compile(flows.folder / "defs4.py")
    assert 'parameters={"date": "{x}", "settings": {"depth": 4}, "learning-rate": 1, "year": 2020}' in text
    assert "max_concurrent_runs=3" in text
    with pytest.raises(CompileError, match="'fast' is no value of the parameter's type float"):
        DagsterCompiler(
            flows.folder / "scheduled.py", schedule_parameters={"date": "x", "learning_rate": "fast"}
        ).compile(flows.folder / "defs4.py")
    with pytest.raises(CompileError, match="--no-overlap and --max-concurrent-runs"):
        DagsterCompiler(flows.folder / "scheduled.py", no_overlap=True, max_concurrent_runs=1)


def test_schedule_param_without_schedule_is_refused(project) -> None:
    flows: Project = project("one_step.py")
    shown = flows.refuses("one_step.py", "create", "--schedule-param", "date=x")
    assert "has no @schedule" in shown
