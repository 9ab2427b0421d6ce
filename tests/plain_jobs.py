"""Plain Dagster jobs for what is Dagster's and not Metaflow's, and what a run of one leaves behind."""

from __future__ import annotations

import time
from typing import Any

import dagster as dg

from metaflow_pipes.runtime import threads

SLEEP_SECONDS = 0.4


@dg.op(out=dg.DynamicOut(int))
def numbers():
    for number in range(4):
        yield dg.DynamicOutput(number, mapping_key=str(number))


@dg.op
def slow(number: int) -> int:
    time.sleep(SLEEP_SECONDS)
    return number


@dg.op
def total(found: list[int]) -> int:
    return sum(found)


@dg.job(executor_def=threads(4))
def side_by_side():
    total(numbers().map(slow).collect())


def run(job: dg.JobDefinition, instance: dg.DagsterInstance, **options: Any) -> Any:
    return dg.execute_job(dg.reconstructable(job), instance, **options)


def records_of(instance: dg.DagsterInstance, run_id: str, kind: str, step: str) -> list[Any]:
    """The records of the events of a kind, of the steps whose keys begin so."""
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType(kind)).records
    return [
        record
        for record in records
        if (event := record.event_log_entry.dagster_event) is not None and (event.step_key or "").startswith(step)
    ]


def logs_of(instance: dg.DagsterInstance, run_id: str) -> dict[str, tuple[bytes, bytes]]:
    """The compute logs of each step, stdout and stderr."""
    found = {}
    for record in instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.LOGS_CAPTURED).records:
        event = record.event_log_entry.dagster_event
        assert event is not None
        data = event.logs_captured_data
        key = instance.compute_log_manager.build_log_key_for_run(run_id, data.file_key)
        assert instance.compute_log_manager.is_capture_complete(key)
        log = instance.compute_log_manager.get_log_data(key)
        for step_key in data.step_keys or ():
            found[step_key] = (found.get(step_key, (b"", b""))[0] + (log.stdout or b""), log.stderr or b"")
    return found
