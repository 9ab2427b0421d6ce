"""Metaflow works as without this package where only a part of it is, as in Metaflow's code packages."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import metaflow
import pytest
from interpreters import link_requirements, virtual_environment
from metaflow.package import MetaflowPackage
from support import Project, values_of

import metaflow_extensions.metaflow_pipes as extension

EXTENSION = Path(extension.__file__).parent


@pytest.fixture(scope="module")
def clean_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has only what Metaflow requires, like one in the image of a remote step."""
    folder = tmp_path_factory.mktemp("clean")
    python = virtual_environment(folder)
    link_requirements("metaflow", folder)
    return python


def _call(python: Path, path: str, project: Project, *arguments: str) -> str:
    finished = subprocess.run(
        [str(python), *arguments],
        cwd=project.folder,
        env={
            **os.environ,
            "PYTHONPATH": path,
            "PATH": os.pathsep.join([str(python.parent), os.environ["PATH"]]),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout
    return finished.stdout


@pytest.fixture
def remote(project, tmp_path: Path) -> tuple[Project, str]:
    """A flow extracted from its code package on another machine, and the PYTHONPATH that Metaflow sets there."""
    printed = project("one_step.py").metaflow("one_step.py", "package", "save", "code.tgz").stdout
    metadata = printed.partition("with metadata: ")[2]
    project = Project.of(tmp_path / "remote")
    for command in MetaflowPackage.get_extract_commands(metadata, str(tmp_path / "project/code.tgz"), "."):
        subprocess.run(["bash", "-c", command], cwd=project.folder, check=True)
    variables = MetaflowPackage.get_post_extract_env_vars(metadata, str(project.folder))
    return project, variables["PYTHONPATH"]


def test_step_runs_from_code_package(clean_python, remote):
    project, path = remote
    # as the commands of Metaflow's remote steps begin
    flow = ["one_step.py", "--quiet", "--no-pylint", "--metadata=local", "--datastore=local", "--package-suffixes=.py"]
    _call(clean_python, path, project, *flow, "init", "--run-id=remote-1", "--task-id=params")
    step = ["step", "only", "--run-id=remote-1", "--task-id=only-1", "--input-paths=remote-1/_parameters/params"]
    _call(clean_python, path, project, *flow, "--with=dagster_internal", *step)
    assert values_of(project.metaflow_run("OneStepFlow", "remote-1"))["only"]["result"] == "HELLO"


def test_flow_runs_from_code_package(clean_python, remote):
    project, path = remote
    _call(clean_python, path, project, "one_step.py", "run", "--run-id-file=run_id")
    run = project.metaflow_run("OneStepFlow", (project.folder / "run_id").read_text())
    assert values_of(run)["only"]["result"] == "HELLO"


def test_only_metaflows_own_schedulers_in_code_package(clean_python, remote):
    project, path = remote
    assert _call(clean_python, path, project, "-c", "import metaflow") == ""
    script = "from metaflow import Deployer as D; print(hasattr(D, 'dagster'), hasattr(D, 'argo_workflows'))"
    assert _call(clean_python, path, project, "-c", script) == "False True\n"
    help_text = _call(clean_python, path, project, "one_step.py", "--help")
    assert "argo-workflows" in help_text
    assert "dagster" not in help_text


def test_flow_runs_with_extension_alone(clean_python, project, tmp_path):
    packages = tmp_path / "packages"
    shutil.copytree(EXTENSION, packages / "metaflow_extensions" / EXTENSION.name)
    (packages / "metaflow").symlink_to(Path(metaflow.__file__).parent)
    alone = project("one_step.py")
    _call(clean_python, str(packages), alone, "one_step.py", "run", "--run-id-file=run_id")
    assert alone.metaflow_run("OneStepFlow", (alone.folder / "run_id").read_text()).successful
