"""Decorators, configs and projects work as under Metaflow's own `run`; what can't work is refused."""

from __future__ import annotations

import base64
import re

import pytest
from support import Project, execute, job_of, values_of

CONFIG = ("--config-value", "settings", '{"depth": 7, "label": "given"}')


@pytest.fixture
def flows(project) -> Project:
    flows = project("decorated.py")
    flows.write("sibling.py", "VALUE = 'imported from the folder'\n")
    flows.write("data.txt", "read from the folder")
    return flows


@pytest.mark.parametrize(
    ("top_level", "job_name"),
    [
        ((), "shop_user_tester_DecoratedFlow"),
        ((*CONFIG, "--branch", "try_it"), "shop_test_try_it_DecoratedFlow"),
        (("--production",), "shop_prod_DecoratedFlow"),
        (("--production", "--branch", "blue"), "shop_prod_blue_DecoratedFlow"),
    ],
)
def test_decorated_flow_gives_the_artifacts_of_metaflows_own_run(flows, top_level, job_name):
    job = flows.job("decorated.py", "--tag", "a tag: {{ x }}", top_level=top_level)
    assert job.name == job_name
    result = execute(job)
    assert result.success
    run = flows.run_of(result)
    run_id_file = flows.folder / "native_run_id"
    flows.metaflow("decorated.py", *top_level, "run", "--tag", "a tag: {{ x }}", "--run-id-file", str(run_id_file))
    native = flows.metaflow_run("DecoratedFlow", run_id_file.read_text())
    assert values_of(run) == values_of(native)
    assert "a tag: {{ x }}" in run.user_tags
    assert run.user_tags == native.user_tags
    assert {tag for tag in run.system_tags if tag.startswith("project")} == {
        tag for tag in native.system_tags if tag.startswith("project")
    }


def test_card_is_made_and_found(flows):
    result = flows.run("decorated.py")
    html = flows.metaflow("decorated.py", "card", "get", f"dagster-{result.run_id}/start/start").stdout
    # a card holds its components in base64
    contents = [
        base64.b64decode(chunk) for chunk in re.findall(r"[A-Za-z0-9+/]{40,}={0,2}", html) if len(chunk) % 4 == 0
    ]
    assert any(b"A heading" in content for content in contents)


def test_resources_are_op_tags(flows):
    job = flows.job("decorated.py")
    tags = job.get_node_named("start").definition.tags
    assert tags["metaflow/cpu"] == "2"
    assert tags["metaflow/memory"] == "2048"
    assert not any(tag.startswith("metaflow/") for tag in job.get_node_named("end").definition.tags)


def test_config_file_is_resolved_when_compiled(flows):
    file = flows.write("settings.json", '{"depth": 11, "label": "from the file"}')
    definitions = flows.compile("decorated.py", top_level=("--config", "settings", str(file)))
    file.unlink()
    result = execute(job_of(definitions))
    data = flows.run_of(result).data
    assert (data.depth, data.label) == (11, "from the file")


def test_credential_in_a_config_gives_a_warning(flows):
    config = ("--config-value", "settings", '{"depth": 1, "label": "x", "db": {"password": "hunter2"}}')
    output = flows.metaflow("decorated.py", *config, "dagster", "create").stdout
    assert "settings.db.password looks like a credential" in output


def test_namespace_reaches_the_steps(project):
    flows: Project = project()
    flows.write(
        "flow.py",
        "from metaflow import FlowSpec, get_namespace, step\n\n"
        "class NamespaceFlow(FlowSpec):\n    @step\n    def only(self):\n        self.seen = get_namespace()\n\n"
        "if __name__ == '__main__':\n    NamespaceFlow()\n",
    )
    result = flows.run("flow.py", None, "--namespace", "production:abc")
    assert flows.run_of(result).data.seen == "production:abc"


def test_what_can_not_run_is_refused_by_name(project):
    flows: Project = project()
    flows.write(
        "flow.py",
        "from metaflow import FlowSpec, kubernetes, parallel, step\n"
        "class RefusedFlow(FlowSpec):\n    @step\n    def start(self):\n        self.next(self.work, num_parallel=2)\n"
        "    @kubernetes\n    @parallel\n    @step\n    def work(self):\n        self.next(self.join)\n"
        "    @step\n    def join(self, inputs):\n        self.next(self.end)\n"
        "    @step\n    def end(self):\n        pass\n\n"
        "if __name__ == '__main__':\n    RefusedFlow()\n",
    )
    top_level = ("--datastore", "s3", "--datastore-root", "s3://b/r")
    shown = flows.refuses("flow.py", "create", "defs.py", top_level=top_level)
    assert "Step work of flow RefusedFlow has the decorator @kubernetes" in shown.replace("*", "")
    assert "several nodes" in shown
