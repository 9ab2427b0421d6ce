"""The process that waits for a step's job: what Metaflow's own command is given in it."""

from __future__ import annotations

import json
import sys

import pytest
from metaflow import mflog
from metaflow.datastore.exceptions import DataException
from metaflow.metadata_provider import util
from metaflow.plugins.environment_decorator import EnvironmentDecorator
from metaflow.plugins.kubernetes import kubernetes, kubernetes_cli
from metaflow.plugins.retry_decorator import RetryDecorator

from step_wrapper.handover import TRAMPOLINE_VARIABLE
from step_wrapper.step import trampoline


class _Datastore:
    def get_task_datastore(self, *_):
        raise DataException("There is no such task.")


@pytest.fixture
def datastore(monkeypatch) -> _Datastore:
    """A datastore in which the job has left nothing; afterwards, Metaflow's functions are as before."""
    replaced = (mflog.get_log_tailer, util.sync_local_metadata_from_datastore)
    for function in replaced:
        for module in list(sys.modules.values()):
            if vars(module).get(function.__name__) is function:
                monkeypatch.setattr(module, function.__name__, function)
    for name in ("METAFLOW_OWNER", "METAFLOW_PRODUCTION_TOKEN", "METAFLOW_RUNTIME_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(TRAMPOLINE_VARIABLE, json.dumps({"A": "given", "B": "given"}))
    return _Datastore()


def test_variables_rank_below_those_of_all_environment_decorators(datastore, monkeypatch):
    monkeypatch.setenv("METAFLOW_RUNTIME_NAME", "dagster")
    decorators = [EnvironmentDecorator({"vars": {"A": "own"}}), EnvironmentDecorator({"vars": {"C": 3}})]
    trampoline.prepare(decorators, datastore)
    assert decorators[0].attributes["vars"] == {
        "A": "own",
        "B": "given",
        "C": "3",
        "METAFLOW_RUNTIME_NAME": "dagster",
    }


def test_step_without_environment_decorator_gets_one(datastore):
    decorators: list = []
    trampoline.prepare(decorators, datastore)
    assert [decorator.attributes["vars"] for decorator in decorators] == [{"A": "given", "B": "given"}]


def test_command_does_not_wait_before_a_retry(datastore):
    retry = RetryDecorator({"times": 2, "minutes_between_retries": 5})
    trampoline.prepare([retry], datastore)
    assert retry.attributes["minutes_between_retries"] == 0


def test_lines_of_stderr_have_a_source_of_their_own(datastore, monkeypatch):
    line = b"[MFLOG|0|2026-01-02T03:04:05.678901Z|task|1]hello|task|"
    tailer = lambda url, _: [line, b"|task| no mark"]  # noqa: E731
    for module in (mflog, kubernetes):
        monkeypatch.setattr(module, "get_log_tailer", tailer)
    trampoline.prepare([], datastore)
    unmarked, _ = kubernetes.get_log_tailer("s3://b/0.task_stdout.log", "s3")
    assert unmarked == line
    marked, other = kubernetes.get_log_tailer("s3://b/0.task_stderr.log", "s3")
    assert marked == line.replace(b"|task|", b"|task-stderr|", 1)
    assert other == b"|task| no mark"


def test_job_that_has_stored_nothing_does_not_hide_why_it_failed(datastore):
    trampoline.prepare([], datastore)
    task = datastore.get_task_datastore("1", "start", "1")
    assert kubernetes_cli.sync_local_metadata_from_datastore(".metaflow", task) is None
