"""Runs on a Dagster instance whose storage is Postgres."""

from __future__ import annotations

import contextlib
import inspect
import re
import runpy
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import dagster as dg
import psycopg2
import pytest
from dagster_postgres import PostgresEventLogStorage
from dagster_postgres.utils import create_pg_engine
from ended_runs import Ticks, notes, run_job, until
from servers.postgres import Postgres, running_postgres
from support import Project, persistent

from metaflow_pipes.io.values import Output, RunValues
from metaflow_pipes.runtime import threads
from metaflow_pipes.runtime.automation import background
from metaflow_pipes.runtime.executors.event_log import event_log_kept_open

if TYPE_CHECKING:
    from collections.abc import Iterator

# Of the instance, of the executor's pool, and of what else a run asks: a few for each op, and none for an event.
MOST_CONNECTIONS = 60
MESSAGES = 150
DEPLOY = Path(__file__).parent.parent.parent / "deploy"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


@pytest.fixture
def instance(postgres: Postgres, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    overrides = {"storage": {"postgres": {"postgres_url": postgres.url}}}
    with dg.instance_for_test(temp_dir=str(tmp_path), overrides=overrides) as instance:
        yield instance


def _wait_until_closed(postgres: Postgres) -> None:
    # the server writes of the end of a connection a moment after its client has gone
    until(lambda: postgres.open_count() == 0)


@dg.op(out=dg.DynamicOut(int))
def numbers():
    for number in range(4):
        yield dg.DynamicOutput(number, mapping_key=str(number))


@dg.op
def talks(context, number: int) -> int:
    for message in range(MESSAGES):
        context.log.info(f"message {message} of {number}")
    return number


@dg.op
def total(found: list[int]) -> int:
    return sum(found)


@dg.job(executor_def=threads(2))
def talking():
    total(numbers().map(talks).collect())


def test_connections_do_not_grow_with_events_and_are_closed_with_the_run(postgres, instance):
    before = postgres.connection_count()
    result = dg.execute_job(dg.reconstructable(talking), instance)
    assert result.success
    entries = instance.all_logs(result.run_id)
    assert sum(entry.user_message.startswith("message ") for entry in entries) == 4 * MESSAGES
    assert [entry.message for entry in entries if entry.step_key == "total"]
    assert postgres.connection_count() - before < MOST_CONNECTIONS
    _wait_until_closed(postgres)


def test_flow_with_a_foreach_runs_and_its_events_are_all_there(project, postgres, instance):
    flows: Project = project("printing.py")
    definitions = flows.compile("printing.py", "--max-workers", "2")
    with dg.execute_job(persistent(definitions), instance) as result:
        assert result.success
    records = instance.get_records_for_run(result.run_id, of_type=dg.DagsterEventType.STEP_SUCCESS).records
    done = {record.event_log_entry.step_key for record in records}
    assert done >= {"start", *(f"work[{index}]" for index in range(5)), "end"}
    run_id = f"dagster-{result.run_id}"
    assert flows.metaflow_run("PrintingFlow", run_id).successful
    # what the ops hand on is there for other processes
    assert RunValues().load(instance, result.run_id, Output("work[3]", "result")) == f"{run_id}/work/work-3"
    assert f"{run_id}/start/start" in RunValues().load(instance, result.run_id, Output("start", "result", "0"))
    _wait_until_closed(postgres)


def test_op_in_a_process_of_its_own_keeps_the_connection_that_its_events_take(project, postgres, instance):
    flows: Project = project()
    flows.write(
        "flow.py",
        "import logging\nfrom metaflow import FlowSpec, step\n\n"
        "class TalkingFlow(FlowSpec):\n    @step\n    def only(self):\n"
        f"        for number in range({MESSAGES}):\n            logging.warning('message %s', number)\n\n"
        "if __name__ == '__main__':\n    TalkingFlow()\n",
    )
    definitions = flows.compile("flow.py", "--executor", "multiprocess")
    before = postgres.connection_count()
    with dg.execute_job(persistent(definitions), instance) as result:
        assert result.success
    entries = instance.all_logs(result.run_id)
    assert sum(" message " in f" {entry.user_message}" for entry in entries) == MESSAGES
    assert postgres.connection_count() - before < MOST_CONNECTIONS
    _wait_until_closed(postgres)


@dg.op(required_resource_keys={"url"})
def loses_its_connections(context):
    context.log.info("before")
    with contextlib.closing(psycopg2.connect(context.resources.url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    context.log.info("after")


@dg.job(executor_def=threads(1), resource_defs={"url": dg.ResourceDefinition.string_resource()})
def disconnected():
    loses_its_connections()


def test_connection_that_the_server_has_closed_in_the_middle_of_a_run_is_made_anew(postgres, instance):
    config = {"resources": {"url": {"config": postgres.url}}}
    result = dg.execute_job(dg.reconstructable(disconnected), instance, run_config=config)
    assert result.success
    assert {"before", "after"} <= {entry.user_message for entry in instance.all_logs(result.run_id)}


def test_run_goes_on_when_the_server_is_restarted_while_a_step_logs(project, postgres, instance):
    flows: Project = project()
    flows.write(
        "flow.py",
        "import logging, time\nfrom pathlib import Path\nfrom metaflow import FlowSpec, step\n\n"
        "class TalkingFlow(FlowSpec):\n    @step\n    def start(self):\n"
        "        number = 0\n"
        "        while not Path('restarted').exists() or number < 10:\n"
        "            logging.warning('message %s', number)\n"
        "            number += 1\n"
        "            Path('begun').touch()\n"
        "            time.sleep(0.05)\n"
        "        self.count = number\n"
        "        self.next(self.end)\n\n"
        "    @step\n    def end(self):\n        pass\n\n"
        "if __name__ == '__main__':\n    TalkingFlow()\n",
    )
    definitions = flows.compile("flow.py")

    def restart():
        until((flows.folder / "begun").exists)
        postgres.restart()
        flows.write("restarted", "")

    thread = threading.Thread(target=restart)
    thread.start()
    with dg.execute_job(persistent(definitions), instance) as result:
        thread.join()
        assert result.success
    count = flows.metaflow_run("TalkingFlow", f"dagster-{result.run_id}").data.count
    entries = instance.all_logs(result.run_id)
    assert sum(" message " in f" {entry.user_message}" for entry in entries) == count


def test_event_on_whose_way_the_server_closes_the_connection_is_stored(instance, monkeypatch):
    storage = instance.event_log_storage
    store = type(storage).store_event
    cut_off: list[dg.EventLogEntry] = []

    def store_or_be_cut_off(self, event):
        if not cut_off:
            cut_off.append(event)
            with self.index_connection() as connection:
                connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")
        store(self, event)

    monkeypatch.setattr(type(storage), "store_event", store_or_be_cut_off)

    @dg.job(executor_def=dg.in_process_executor)
    def nothing():
        pass

    run = instance.create_run_for_job(nothing)
    with event_log_kept_open(instance):
        instance.report_engine_event("it is there", run)
    assert len(cut_off) == 1
    assert [entry.get_dagster_event().message for entry in instance.all_logs(run.run_id)] == ["it is there"]


def test_instance_and_code_location_of_the_containers_run_a_flow(project, postgres, monkeypatch, tmp_path):
    flows: Project = project("one_step.py")
    flows.metaflow("one_step.py", "dagster", "create")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("FLOWS_FOLDER", str(flows.folder))
    at = urlsplit(postgres.url)
    facts = {"HOST": at.hostname, "PORT": at.port, "USER": at.username, "PASSWORD": "any", "DB": at.path[1:]}
    for name, value in facts.items():
        monkeypatch.setenv(f"DAGSTER_PG_{name}", str(value))
    # a folder that containers have
    settings = (DEPLOY / "dagster.yaml").read_text().replace("/opt/dagster/logs", str(tmp_path / "logs"))
    (tmp_path / "dagster.yaml").write_text(settings)
    location: dg.Definitions = runpy.run_path(str(DEPLOY / "definitions.py"))["defs"]
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        result = location.resolve_job_def("OneStepFlow").execute_in_process(instance=instance)
        assert result.success
        assert isinstance(instance.event_log_storage, PostgresEventLogStorage)
        assert instance.get_run_by_id(result.run_id)
    assert flows.metaflow_run("OneStepFlow", f"dagster-{result.run_id}").successful
    assert list((tmp_path / "logs").rglob("*.out"))


def test_dagster_postgres_has_what_the_executor_uses():
    assert list(inspect.signature(create_pg_engine).parameters) == ["postgres_url", "token_provider", "engine_kwargs"]
    source = inspect.getsource(PostgresEventLogStorage)
    assert {"_engine", "_token_provider", "postgres_url"} <= set(re.findall(r"self\.(\w+)", source))
    assert "poolclass=db_pool.NullPool" in source


def test_exit_hooks_run_once_though_several_processes_see_the_end_at_once(project, instance):
    flows: Project = project("hooked.py", "hooked_helpers.py")
    flows.compile("hooked.py")
    ticks = Ticks.of(instance, flows.folder / "defs.py", "HookedFlow_exit_hooks")
    ticks.tick()
    run_id = run_job(flows, instance)
    processes = [background.start(instance, run_id, ticks.sensor.follow_up) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert f"Run {run_id}: Exit hook celebrate finished" in ticks.until("celebrate")
    assert [line.split()[0] for line in notes(flows)] == ["celebrate", "count"]
