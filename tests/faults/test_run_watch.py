"""A step ends with its run under executors that do not end their ops, as Celery's."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import dagster as dg
import pytest
from ended_runs import until

from metaflow_pipes.runtime import MetaflowPipesClient
from metaflow_pipes.runtime.client import run_watch

# Much less than the process would take.
PATIENCE_SECONDS = 20
WAITS = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(300)"
ENDINGS = {
    "is to be canceled": lambda instance, run: instance.report_run_canceling(run),
    "failed": lambda instance, run: instance.report_run_failed(run),
    "was deleted": lambda instance, run: instance.delete_run(run.run_id),
}


@dg.executor(name="forgetful", config_schema=dg.in_process_executor.config_schema.as_field())
def forgetful(context):
    """In this process; it would let its steps go on, whatever becomes of the run."""
    return dg.in_process_executor.executor_creation_fn(context)


@dg.op(config_schema={"pid_file": str})
def waits(context):
    MetaflowPipesClient().run(context=context, command=[sys.executable, "-c", WAITS, context.op_config["pid_file"]])


@dg.job(executor_def=forgetful)
def waiting():
    waits()


@pytest.fixture(scope="module")
def instance(tmp_path_factory):
    with dg.instance_for_test(temp_dir=str(tmp_path_factory.mktemp("instance"))) as instance:
        yield instance


@pytest.mark.parametrize("ending", ENDINGS)
def test_step_is_ended_when_its_run(ending, instance, tmp_path, monkeypatch):
    monkeypatch.setattr(run_watch, "ASK_SECONDS", 0.1)
    pid_file = tmp_path / "pid"
    get_run_by_id, unreachable = instance.get_run_by_id, threading.Event()

    def get_run(run_id):
        if threading.current_thread().name == "run-watch" and not unreachable.is_set():
            unreachable.set()
            raise OSError("a database that is restarted")
        return get_run_by_id(run_id)

    def end_run():
        until(pid_file.exists)
        until(unreachable.is_set)
        (run,) = instance.get_runs(limit=1)
        ENDINGS[ending](instance, run)

    monkeypatch.setattr(instance, "get_run_by_id", get_run)
    thread = threading.Thread(target=end_run)
    thread.start()
    config = {"ops": {"waits": {"config": {"pid_file": str(pid_file)}}}}
    started = time.monotonic()
    with pytest.raises(dg.DagsterExecutionInterruptedError):
        dg.execute_job(dg.reconstructable(waiting), instance, run_config=config, raise_on_error=True)
    thread.join()
    assert time.monotonic() - started < PATIENCE_SECONDS
    assert not Path("/proc", pid_file.read_text()).exists()
