"""Deployments, read from the text of definitions files, and found by the job's name."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import flow_model, step_model

from metaflow_pipes import DeploymentError
from metaflow_pipes.compile.flow_model import FlowModel, ParameterModel
from metaflow_pipes.compile.job_options import JobOptions
from metaflow_pipes.compile.lowering import lower
from metaflow_pipes.compile.rendering import render
from metaflow_pipes.deployment.definitions_file import read_deployment
from metaflow_pipes.deployment.lookup import deployment_of, find_deployment
from metaflow_pipes.deployment.registry import forget, register, registered

if TYPE_CHECKING:
    from pathlib import Path

NUMBERS = st.floats(allow_nan=False) | st.integers() | st.none() | st.booleans() | st.text()


def _write(folder: Path, *, file: str = "defs.py", flow: FlowModel | None = None, **options: object) -> Path:
    """A definitions file in a folder with its flow file."""
    folder.mkdir(parents=True, exist_ok=True)
    model = flow or flow_model(step_model("start"))
    model = replace(model, file=str(folder / "flow.py"), working_directory=str(folder))
    (folder / "flow.py").write_text("")
    path = folder / file
    path.write_text(render(lower(model, JobOptions(**options)), path))
    return path


def _context(folder: Path, *, flow: str = "SomeFlow", name: str | None = None) -> SimpleNamespace:
    """The context that click hands to a command of the flow in a folder."""
    obj = SimpleNamespace(flow=SimpleNamespace(name=flow), entrypoint=[sys.executable, str(folder / "flow.py")])
    return SimpleNamespace(obj=obj, info_name="trigger", parent=SimpleNamespace(params={"name": name}))


def test_everything_that_the_file_says_is_read(tmp_path):
    parameters = (
        ParameterModel("alpha-1", "float", has_default=True, default=float("inf"), help="so {big}", attribute="a"),
        ParameterModel("items", "json", multiple=True, required=True),
        ParameterModel("names", "str", separator=",", has_default=True, default=None),
    )
    flow = replace(
        flow_model(step_model("type"), step_model("end", "type"), name="ShopFlow"),
        deployment_name="shop.user.ann.lee.ShopFlow",
        is_project=True,
        parameters=parameters,
        configs={"c": ({"depth": float("-inf")}, False)},
        settings={"METAFLOW_UI_URL": "https://ui", "METAFLOW_PRODUCTION_TOKEN": "shop-0-abcd"},
        top_level_args=("--metadata=local",),
        datastore_root=str(tmp_path / ".metaflow"),
    )
    path = _write(tmp_path, flow=flow, tags=("a", "b c"), namespace="n", max_workers=2)
    deployment = read_deployment(path)
    assert deployment.definitions_file == path
    assert (deployment.name, deployment.flow_name) == ("shop_user_ann_lee_ShopFlow", "ShopFlow")
    assert (deployment.flow_file, deployment.working_directory) == (tmp_path / "flow.py", tmp_path)
    assert (deployment.project_name, deployment.branch_name) == ("shop", "user.ann.lee")
    assert not deployment.is_production
    assert deployment.parameters == parameters
    assert deployment.steps == ("type", "end")
    assert deployment.op_names == {"type": "type_", "end": "end"}
    assert deployment.start_op == "type_"
    assert deployment.user == "tester"
    assert deployment.production_token == "shop-0-abcd"
    assert deployment.namespace == "n"
    assert deployment.configs == flow.configs
    assert deployment.settings == flow.settings
    assert (deployment.datastore, deployment.datastore_root) == ("local", str(tmp_path / ".metaflow"))
    assert deployment.top_level_args == ("--metadata=local",)
    assert deployment.tags == ("a", "b c")


@pytest.mark.parametrize(
    ("branch", "is_production"), [("prod", True), ("prod.x", True), ("test.prod", False), ("user.prod", False)]
)
def test_production_branches(tmp_path, branch, is_production):
    flow = replace(flow_model(step_model("start")), deployment_name=f"shop.{branch}.SomeFlow", is_project=True)
    deployment = read_deployment(_write(tmp_path, flow=flow))
    assert deployment.branch_name == branch
    assert deployment.is_production is is_production


@settings(deadline=None)
@given(default=st.recursive(NUMBERS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))
def test_values_come_back(tmp_path_factory, default):
    parameter = ParameterModel("p", "json", has_default=True, default=default)
    flow = replace(flow_model(step_model("start")), parameters=(parameter,))
    folder = tmp_path_factory.mktemp("values", numbered=True)
    assert read_deployment(_write(folder, flow=flow)).parameters == (parameter,)


def test_reading_imports_no_dagster(tmp_path):
    path = _write(tmp_path)
    code = (
        "import sys; from metaflow_pipes.deployment.definitions_file import read_deployment; "
        f"print(read_deployment({str(path)!r}).name); assert not {{'dagster', 'metaflow'}} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "SomeFlow\n"


def test_staleness_is_that_of_the_flow_in_dagster(tmp_path):
    digest = hashlib.sha256(b"").hexdigest()
    path = _write(tmp_path, flow=replace(flow_model(step_model("start")), fingerprint=f"sha256:{digest}"))
    assert read_deployment(path).staleness() is None
    (tmp_path / "flow.py").write_text("# changed\n")
    problem = read_deployment(path).staleness()
    assert problem is not None
    assert "has changed since" in problem
    assert problem.endswith("python flow.py dagster create defs.py")
    (tmp_path / "flow.py").unlink()
    assert "is gone" in (read_deployment(path).staleness() or "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "can't be read: No such file or directory"),
        ("def (", "is no Python file"),
        ("\0", "is no Python file"),
        ("# the old definitions\n", "is no definitions file of metaflow-pipes"),
        ("import dagster as dg\n\n@dg.job(name='x')\ndef x(): pass\n", "is no definitions file of metaflow-pipes"),
        ("FLOW = MetaflowFlow(name='x')\n\n@dg.job(name='x')\ndef x(): pass\n", "another version of metaflow-pipes"),
        ("FLOW = MetaflowFlow(name=f())\n\n@dg.job(name='x')\ndef x(): pass\n", "another version of metaflow-pipes"),
    ],
)
def test_what_is_no_definitions_file_is_said_to_be_none(tmp_path, text, message):
    path = tmp_path / "defs.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DeploymentError, match=message) as raised:
        read_deployment(path)
    assert str(path) in str(raised.value)
    assert "dagster create" in str(raised.value)


def test_registered_deployments_are_found_by_name_and_by_path(tmp_path):
    first = read_deployment(_write(tmp_path / "a"))
    second = read_deployment(_write(tmp_path / "b", name="nightly", flow=flow_model(step_model("s"), name="Other")))
    for deployment in (first, second, second):
        register(deployment)
    assert registered() == [second, first]
    assert registered("Other") == [second]
    assert find_deployment("nightly") == find_deployment(second.definitions_file) == second
    assert find_deployment(str(first.definitions_file)) == first


def test_entries_whose_file_is_gone_or_broken_are_skipped(tmp_path, metaflow_home):
    kept, gone, broken = (read_deployment(_write(tmp_path / name, name=name)) for name in ("kept", "gone", "broken"))
    for deployment in (kept, gone, broken):
        register(deployment)
    gone.definitions_file.unlink()
    broken.definitions_file.write_text("nonsense(")
    (metaflow_home / "dagster-deployments" / "x.json").write_text("{")
    assert registered() == [kept]
    forget(kept.definitions_file)
    forget(kept.definitions_file)
    assert registered() == []


def test_an_entry_holds_only_what_the_file_does_not(tmp_path, metaflow_home):
    path = _write(tmp_path)
    register(read_deployment(path))
    (entry,) = (metaflow_home / "dagster-deployments").iterdir()
    assert json.loads(entry.read_text()) == {"definitions_file": str(path)}


def test_of_several_with_a_name_the_one_in_the_working_directory_is_meant(tmp_path, monkeypatch):
    for folder in ("a", "b"):
        register(read_deployment(_write(tmp_path / folder)))
    monkeypatch.chdir(tmp_path / "a")
    assert find_deployment("SomeFlow").definitions_file.parent == tmp_path / "a"


def test_unknown_names_list_what_there_is_and_of_several_the_latest_counts(tmp_path):
    with pytest.raises(DeploymentError, match=r"no deployment of the name nightly.*dagster create"):
        find_deployment("nightly")
    paths = [_write(tmp_path / folder) for folder in ("a", "b")]
    for path in paths:
        register(read_deployment(path))
    with pytest.raises(DeploymentError) as raised:
        find_deployment("nightly")
    assert all(str(path) in str(raised.value) for path in paths)
    assert find_deployment("SomeFlow").definitions_file == paths[1]


def test_a_command_means_the_deployment_of_its_flow(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own, other, named = (
        read_deployment(_write(tmp_path / folder, file=file, **options))
        for folder, file, options in (("a", "defs.py", {}), ("b", "defs.py", {}), ("a", "n.py", {"name": "nightly"}))
    )
    with pytest.raises(DeploymentError, match="not deployed as job SomeFlow"):
        deployment_of(_context(tmp_path / "a"))
    for deployment in (own, other, named):
        register(deployment)
    assert deployment_of(_context(tmp_path / "a")) == own
    assert deployment_of(_context(tmp_path / "b")) == other
    assert deployment_of(_context(tmp_path / "a", name="nightly")) == named
    assert deployment_of(_context(tmp_path / "b"), "nightly") == named
    assert deployment_of(_context(tmp_path / "a"), definitions_file=str(other.definitions_file)) == other
    with pytest.raises(DeploymentError, match="2 deployments of the name SomeFlow"):
        deployment_of(_context(tmp_path / "elsewhere"))
    with pytest.raises(DeploymentError, match=r"belongs to the flow SomeFlow.*not to Other"):
        deployment_of(_context(tmp_path / "a", flow="Other"), "nightly")
    with pytest.raises(DeploymentError, match="--name is given twice"):
        deployment_of(_context(tmp_path / "a", name="nightly"), "daily")


def test_of_several_files_compiled_from_a_flow_file_a_command_means_the_latest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    default, other = (read_deployment(_write(tmp_path, file=file)) for file in ("someflow_dagster.py", "other.py"))
    for latest in (default, other, default):
        register(latest)
        assert deployment_of(_context(tmp_path)) == latest


def test_a_deployment_that_is_not_registered_is_found_in_its_default_file(tmp_path, monkeypatch):
    path = _write(tmp_path, file="someflow_dagster.py")
    monkeypatch.chdir(tmp_path)
    assert deployment_of(_context(tmp_path)).definitions_file == path
