"""The config of a job's executor: what a deployment gives, and what a run gives, which ranks above."""

from __future__ import annotations

import json

import dagster as dg
import pytest
from dagster_celery import celery_executor
from dagster_k8s import k8s_job_executor
from models import flow_model, step_model

from metaflow_pipes.compile.job_options import JobOptions
from metaflow_pipes.compile.lowering import lower
from metaflow_pipes.compile.rendering import render
from metaflow_pipes.errors import CompileError
from metaflow_pipes.executor_config import executor_config_in
from metaflow_pipes.runtime import on_kubernetes, threads, with_executor_config
from metaflow_pipes.runtime.executors.configured import problems_of


@pytest.mark.parametrize(
    "text",
    [
        "broker: redis://somewhere\n",
        '{"broker": "redis://somewhere"}',
        "execution:\n  config:\n    broker: redis://somewhere\n",
    ],
)
def test_file_has_the_fields_bare_or_as_in_a_run_config(tmp_path, text):
    (tmp_path / "file").write_text(text)
    assert executor_config_in(str(tmp_path / "file")) == {"broker": "redis://somewhere"}
    assert executor_config_in(json.dumps({"a": {"b": 1}})) == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- broker\n", "has to hold the fields of the executor's config"),
        ("execution: {celery: {}}\n", "has to hold the fields of the executor's config"),
        ("a: [\n", "is neither YAML nor JSON"),
        (None, "can't be read: No such file or directory"),
    ],
)
def test_file_that_has_none_is_refused(tmp_path, text, problem):
    if text is not None:
        (tmp_path / "file").write_text(text)
    with pytest.raises(CompileError, match=problem):
        executor_config_in(str(tmp_path / "file"))


def resolved(executor: dg.ExecutorDefinition, config: dict | None = None) -> dict:
    """The config with which an executor is made, in a run with a config."""
    made = []

    @dg.op
    def only():
        pass

    def make(context):
        made.append(context.executor_config)
        return dg.in_process_executor.executor_creation_fn(context)

    watched = dg.ExecutorDefinition(
        executor.name, executor.config_schema, executor.get_requirements, make, executor.description
    )

    @dg.job(executor_def=watched)
    def job():
        only()

    run_config = {} if config is None else {"execution": {"config": config}}
    return next(iter(dg.validate_run_config(job, run_config)["execution"].values()))


def test_run_config_ranks_above_the_deployments_and_both_above_the_executors_own(monkeypatch):
    monkeypatch.setenv("BROKER", "redis://secret")
    config = {"broker": {"env": "BROKER"}, "config_source": {"task_acks_late": True}}
    executor = with_executor_config(celery_executor, config)
    assert executor is with_executor_config(celery_executor, config)
    assert resolved(executor)["broker"] == "redis://secret"
    assert resolved(executor)["backend"] == "rpc://"
    overridden = resolved(executor, {"broker": "redis://other"})
    assert overridden["broker"] == "redis://other"
    assert overridden["config_source"] == {"task_acks_late": True}


def test_executor_whose_config_is_not_described_takes_any():
    @dg.executor(name="open")
    def open_executor(_):
        raise NotImplementedError

    assert resolved(with_executor_config(open_executor, {"depth": {"a": 1}}), {"b": 2}) == {"depth": {"a": 1}, "b": 2}


def test_executor_that_is_one_of_several_keeps_the_one_that_is_given():
    executor = with_executor_config(dg.multi_or_in_process_executor, {"multiprocess": {"max_concurrent": 2}})
    assert resolved(executor)["multiprocess"]["max_concurrent"] == 2
    assert list(resolved(executor, {"in_process": {}})) == ["in_process"]


def test_problems_are_those_that_a_run_config_could_not_mend():
    assert problems_of(celery_executor, {"broker": {"env": "NOT_SET"}}) == []
    assert "unexpected config entry" in problems_of(celery_executor, {"url": "redis://"})[0]
    needy = dg.ExecutorDefinition("needy", {"a": int, "b": int})
    assert problems_of(needy, {"a": 1}) == []
    assert problems_of(needy, {"a": "1"}) != []


def rendered(tmp_path, **options) -> str:
    flow = flow_model(step_model("start"))
    return render(lower(flow, JobOptions(**options)), tmp_path / "defs.py")


def test_file_gives_the_executor_its_config(tmp_path):
    text = rendered(tmp_path, max_workers=3, executor_config={"max_concurrent": 2})
    assert 'EXECUTOR = with_executor_config(threads(max_concurrent=3), {"max_concurrent": 2})\n' in text
    assert resolved(with_executor_config(threads(3), {"max_concurrent": 2}))["max_concurrent"] == 2


def test_executor_of_pods_gets_its_config(tmp_path):
    text = rendered(tmp_path, executor="dagster_k8s:k8s_job_executor", executor_config={"job_namespace": "flows"})
    assert 'EXECUTOR = with_executor_config(on_kubernetes(custom_executor), {"job_namespace": "flows"})\n' in text
    executor = with_executor_config(on_kubernetes(k8s_job_executor), {"job_namespace": "flows"})
    assert resolved(executor)["job_namespace"] == "flows"


def test_config_that_the_executor_does_not_take_is_refused(tmp_path):
    for executor in ("threads", "in_process", "dagster_celery:celery_executor"):
        with pytest.raises(CompileError, match="--executor-config can't be the config of --executor"):
            rendered(tmp_path, executor=executor, executor_config={"depth": 1})


def test_password_in_the_config_gives_a_warning():
    options = JobOptions(
        executor="dagster_celery:celery_executor", executor_config={"broker": "redis://ann:secret@host/0"}
    )
    (warning,) = lower(flow_model(step_model("start")), options).warnings
    assert warning.startswith("--executor-config.broker looks like a credential")
