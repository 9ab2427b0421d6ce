"""The wire between an op and its step: what one side sends, the other reads, unless it is of another version."""

from __future__ import annotations

import json
from typing import Any

import pytest

from step_wrapper import wire

RESUMPTION = wire.Resumption("1", ["start"], ["alpha"], may_clone=True)
REPORT: wire.Report = {
    "task_id": "train",
    "duration_seconds": 1.5,
    "is_cached": False,
    "cloned_from": None,
    "next_steps": ["end"],
    "num_splits": None,
    "control_tasks": [],
    "failure": None,
}


def _request(resumption: wire.Resumption | None) -> wire.Request:
    return wire.Request(
        flow="TrainFlow",
        run_id="dagster-1",
        step="train",
        task_id="train",
        attempt=0,
        command=["flow.py", "step"],
        init=None,
        configs={"config": {"a": [1]}},
        datastore="local",
        datastore_root="/data",
        timeout_seconds=None,
        log_level=30,
        indices=[0, 1],
        iteration=None,
        done_as=[],
        asset_key="TrainFlow/train",
        ended_with=None,
        resumption=resumption,
        system_tags=["scheduled"],
        dagster_run_id="1",
        dagster_job_name="TrainFlow",
        dagster_step_key="train",
        run_limit_seconds=None,
        run_seconds_left=None,
        triggers=[{"name": "data_ready", "id": "1", "timestamp": 1, "type": "event"}],
        blocking_checks=["enough_rows"],
        remote_env={"PLAIN": "x"},
        is_own_pod=False,
        job=wire.Job(system="kubernetes", namespace="science", id="pod t-1", url=None),
    )


def _sent(value: Any) -> Any:
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("resumption", [None, RESUMPTION])
def test_request_is_read_as_it_was_sent(resumption):
    request = _request(resumption)
    assert wire.Request(**wire.Request.values_in(_sent(request.as_extras()))) == request


def test_event_is_read_as_it_was_sent_and_nothing_else_is_one():
    fields = wire.stamped("data_ready", {"rows": 3, "id": "mine"})
    assert fields["rows"] == 3
    assert fields["id"] == "mine"
    assert wire.event_in(_sent(wire.event_message("data_ready", fields))) == ("data_ready", fields)
    for message in (None, [], {}, {wire.EVENT: 1}, {wire.EVENT: {"version": wire.VERSION, "name": "", "payload": {}}}):
        assert wire.event_in(message) is None


def test_event_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="store the data elsewhere"):
        wire.event_message("data_ready", {"rows": "x" * wire.MAX_EVENT_CHARACTERS})


def test_request_of_another_version_is_refused(monkeypatch):
    extras = _request(RESUMPTION).as_extras()
    monkeypatch.setattr(wire, "VERSION", wire.VERSION + 1)
    with pytest.raises(wire.OtherVersionError, match=r"versions of metaflow-pipes .*restart Dagster's processes"):
        wire.Request.values_in(extras)


def test_request_of_the_first_release_which_does_not_say_its_version_is_refused():
    extras = {wire.REQUEST: {"flow": "TrainFlow", "step_key": "train"}}
    with pytest.raises(wire.OtherVersionError, match="1 there"):
        wire.Request.values_in(extras)


def test_report_is_read_as_it_was_sent():
    assert wire.report_in(_sent(wire.report_message(REPORT))).items() >= REPORT.items()


def test_report_of_another_version_is_refused(monkeypatch):
    message = wire.report_message(None)
    monkeypatch.setattr(wire, "VERSION", wire.VERSION + 1)
    with pytest.raises(wire.OtherVersionError):
        wire.report_in(message)


@pytest.mark.parametrize(
    "message", [{}, [], "text", None, {wire.REPORT: "nonsense"}, {wire.REPORT: {"next_steps": []}}]
)
def test_message_of_the_steps_own_code_is_no_report(message):
    with pytest.raises((KeyError, TypeError)):
        wire.report_in(message)
