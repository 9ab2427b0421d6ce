"""`suspend` and `unsuspend`: what they do to the schedule of a flow, as a real `dagster dev` sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from dagster_dev import dagster_dev, definitions_of
from support import FLOWS, Project

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dagster_dev import DagsterDev

STATUS = """
    query Status($selector: ScheduleSelector!) {
        scheduleOrError(scheduleSelector: $selector) { ... on Schedule { scheduleState { status } } }
    }
"""


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterDev]:
    flows = {"ScheduledFlow": FLOWS / "scheduled.py"}
    with dagster_dev(tmp_path_factory.mktemp("dev"), flows, "--schedule-param", "date=x") as dev:
        yield dev


def status(dev: DagsterDev) -> str:
    """The status of the schedule, as the UI shows it."""
    selector = {
        "repositoryName": "__repository__",
        "repositoryLocationName": definitions_of("ScheduledFlow"),
        "scheduleName": "ScheduledFlow_schedule",
    }
    return dev.graphql(STATUS, selector=selector)["scheduleOrError"]["scheduleState"]["status"]


@pytest.mark.parametrize("where", ["instance", "webserver"])
def test_schedule_is_stopped_and_started(dev: DagsterDev, where: str) -> None:
    def command(name: str) -> str:
        url = ("--url", dev.url) if where == "webserver" else ()
        file = ("--definitions-file", definitions_of("ScheduledFlow"))
        arguments = ("scheduled.py", "dagster", name, *file, *url)
        # where there is no webserver to ask, in an interpreter of its own, as a user's command
        return dev.project.metaflow(*arguments, cold=not url, DAGSTER_HOME=str(dev.home)).stdout

    assert status(dev) == "RUNNING"
    for _ in range(2):
        assert "ScheduledFlow_schedule is stopped on " in command("suspend")
        assert status(dev) == "STOPPED"
    for _ in range(2):
        assert "ScheduledFlow_schedule is running on " in command("unsuspend")
        assert status(dev) == "RUNNING"


def test_flow_that_nothing_starts_is_refused(project) -> None:
    flows: Project = project("one_step.py")
    flows.compile("one_step.py")
    home = flows.folder / "dagster_home"
    home.mkdir()
    shown = flows.metaflow("one_step.py", "dagster", "suspend", check=False, DAGSTER_HOME=str(home))
    assert shown.returncode == 1
    assert "has no schedule and no sensor" in shown.stdout
