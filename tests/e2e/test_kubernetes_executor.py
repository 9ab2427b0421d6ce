"""Jobs whose ops run in Kubernetes pods, as far as no cluster is needed: what is asked of it, and what is refused."""

from __future__ import annotations

import json
import logging

import dagster as dg
import pytest
from dagster_k8s import k8s_job_executor
from dagster_k8s.job import get_user_defined_k8s_config
from support import Project, job_of, load, persistent

from metaflow_pipes.runtime import on_kubernetes

EXECUTOR = ("--executor", "dagster_k8s:k8s_job_executor")
FLOW = """
from metaflow import FlowSpec, resources, step

class PodFlow(FlowSpec):
    @resources(cpu=4, memory=8000, gpu=1)
    @step
    def start(self):
        self.next(self.end)

    @resources
    @step
    def end(self):
        pass

if __name__ == "__main__":
    PodFlow()
"""


@pytest.fixture(scope="module")
def definitions(tmp_path_factory):
    flows = Project.of(tmp_path_factory.mktemp("pods") / "project")
    flows.write("flow.py", FLOW)
    return flows.compile("flow.py", *EXECUTOR)


def test_ops_ask_for_the_resources_of_their_steps(definitions):
    job = job_of(definitions)
    tags = job.get_node_named("start").definition.tags
    asked = get_user_defined_k8s_config(tags).container_config["resources"]
    assert asked == {"requests": {"cpu": "4", "memory": "8000M"}, "limits": {"nvidia.com/gpu": "1"}}
    # what the deployment has by default stays
    assert "dagster-k8s/config" not in job.get_node_named("end").definition.tags
    (assets,) = load(definitions).ASSETS
    in_assets = assets.node_def.node_dict["start"].definition.tags
    assert json.loads(in_assets["dagster-k8s/config"]) == json.loads(tags["dagster-k8s/config"])


def test_run_says_what_is_missing_where_the_instance_launches_no_pods(definitions):
    with dg.instance_for_test() as instance:
        result = dg.execute_job(persistent(definitions), instance, raise_on_error=False)
        (failed,) = [entry for entry in instance.all_logs(result.run_id) if entry.level >= logging.ERROR]
    message = str(failed.get_dagster_event().event_specific_data.error)
    assert "Job PodFlow has the executor k8s, which launches each step in a pod" in message
    assert "the run launcher of this Dagster instance is DefaultRunLauncher" in message
    assert "class: K8sRunLauncher" in message


def test_executor_is_the_same_for_all_files_of_a_code_location():
    assert on_kubernetes(k8s_job_executor) is on_kubernetes(k8s_job_executor)
    configured = k8s_job_executor.configured({"max_concurrent": 3, "job_namespace": "jobs"}, name="ours")
    ours = on_kubernetes(configured)
    assert ours.name == "ours"
    assert ours.apply_config_mapping({"config": {}}).value == configured.apply_config_mapping({"config": {}}).value
    assert ours.get_requirements({}) == configured.get_requirements({})
