"""The flow behind a definitions file: its environment and its commands."""

from __future__ import annotations

import pytest
from models import runtime_flow

from metaflow_pipes.run_options import RunOptions
from metaflow_pipes.runtime import MetaflowFlow, MetaflowParameter


@pytest.fixture
def flow(tmp_path) -> MetaflowFlow:
    return runtime_flow(
        tmp_path,
        top_level_args=["--metadata=local"],
        settings={"METAFLOW_UI_URL": "https://ui"},
        tags=["a", "b c"],
        parameters=[MetaflowParameter("alpha", "float", default=0.5)],
    )


@pytest.mark.parametrize(
    ("run_environment", "user"),
    [
        ({}, "ann"),
        ({"USER": "root", "SUDO_USER": ""}, "ann"),
        ({"USER": "bob"}, None),
        ({"METAFLOW_USER": "carl", "USER": "root"}, None),
    ],
)
def test_user_is_the_compilers_where_the_run_names_none(flow, run_environment, user):
    assert flow.environment(run_environment).get("METAFLOW_USER") == user


def test_environment_leads_to_the_datastore(flow, tmp_path):
    environment = flow.environment({"USER": "bob"})
    assert environment == {
        "METAFLOW_RUNTIME_NAME": "dagster",
        "METAFLOW_UI_URL": "https://ui",
        "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(tmp_path),
        "METAFLOW_DATATOOLS_LOCALROOT": str(tmp_path / ".metaflow" / "data"),
    }
    environment = flow.environment({"USER": "bob", "METAFLOW_DATATOOLS_LOCALROOT": "/elsewhere"})
    assert "METAFLOW_DATATOOLS_LOCALROOT" not in environment


def test_step_command_is_metaflows(flow, tmp_path):
    options = RunOptions(tags=("a", "b c"), decospecs=("card",), namespace="user:bob")
    command = flow.step_command("train", "dagster-1", "train", ["dagster-1/start/start"], 2, 3, options)
    assert command[0] == str(tmp_path / "flow.py")
    assert "--with=card" in command[: command.index("step")]
    assert command[command.index("step") :] == [
        "step",
        "train",
        "--run-id=dagster-1",
        "--task-id=train",
        "--tag=a",
        "--tag=b c",
        "--input-paths=dagster-1/start/start",
        "--retry-count=2",
        "--max-user-code-retries=3",
        "--namespace=user:bob",
    ]


def test_init_command_has_the_parameters(flow):
    assert flow.init_command("dagster-1", "parameters", {"alpha": 0.25}, RunOptions())[-1] == "--alpha=0.25"


def test_steps_run_beside_the_flow_if_the_folder_of_the_compiler_is_gone(flow, tmp_path):
    from dataclasses import replace

    assert flow.folder == str(tmp_path)
    assert replace(flow, working_directory="/no/such/folder").folder == str(tmp_path)
