"""Steps with an interpreter of their own: `@pypi` and `@conda` by Metaflow's environment, and projects of uv."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import dagster_pipes
import metaflow
import pytest
from interpreters import link_requirements, site_packages, virtual_environment
from support import Project, execute, failure_description, failures, job_of, output_metadata

import metaflow_extensions.metaflow_pipes as extension
import step_wrapper

STAND_IN = Path(__file__).parent.parent / "micromamba.py"
PYPI = ("--environment", "pypi")
FLOW = """
import sys
from metaflow import FlowSpec, Parameter, conda, current, pypi, retry, step

class PackagesFlow(FlowSpec):
    alpha = Parameter("alpha", default=0.5)

    @retry(times=1, minutes_between_retries=0)
    @pypi(packages={"tiny": "1.2"})
    @step
    def start(self):
        import tiny
        from dagster_pipes import PipesContext

        PipesContext.get().log.info("Dagster hears this")
        print("with tiny", tiny.__version__)
        if current.retry_count == 0:
            raise ValueError("on purpose")
        self.version, self.python = tiny.__version__, sys.executable
        self.next(self.end)

    @conda(disabled=True)
    @step
    def end(self):
        self.own_python = sys.executable

if __name__ == "__main__":
    PackagesFlow()
"""


@pytest.fixture(scope="module")
def micromamba(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("micromamba")
    path = folder / "bin"
    path.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, str(STAND_IN), str(folder)])} "$@"\n')
    path.chmod(0o755)
    return path


class Ran(NamedTuple):
    """A run of PackagesFlow."""

    flows: Project
    result: dg.ExecuteInProcessResult
    log: list[str]
    left_behind: set[Path]


@pytest.fixture(scope="module")
def ran(micromamba, tmp_path_factory) -> Ran:
    flows = Project.of(tmp_path_factory.mktemp("packages") / "project")
    flows.write("flow.py", FLOW)
    before = _extracted()
    with pytest.MonkeyPatch.context() as patch, dg.instance_for_test() as instance:
        patch.setenv("METAFLOW_PATH_TO_MICROMAMBA", str(micromamba))
        result = execute(job_of(flows.compile("flow.py", top_level=PYPI)), {"alpha": 2.0}, instance=instance)
        log = [entry.user_message for entry in instance.all_logs(result.run_id)]
    return Ran(flows, result, log, _extracted() - before)


def _extracted() -> set[Path]:
    """The folders where Metaflow has extracted code packages for interpreters of other environments."""
    return set(Path("/tmp").glob("tmp*/.mf_code"))


def test_step_runs_with_its_packages_and_its_interpreter(ran, micromamba):
    flows, result, *_ = ran
    assert result.success
    data = flows.run_of(result)["start"].task.data
    assert (data.version, data.alpha) == ("1.2", 2.0)
    assert data.python.startswith(str(micromamba.parent / "envs"))
    assert flows.run_of(result)["end"].task.data.own_python == sys.executable


def test_environment_is_made_once(ran, micromamba):
    created = (micromamba.parent / "created").read_text().splitlines()
    assert len(created) == len(set(created)) == 1


def test_failure_retry_logs_and_metadata_are_as_of_any_step(ran):
    flows, result, *_ = ran
    (raised,) = failures(result, "start")
    assert "(attempt 0) failed: ValueError: on purpose" in failure_description(raised)
    assert "with tiny 1.2" in flows.run_of(result)["start"].task.stdout
    metadata = output_metadata(result, "start")
    assert metadata["version"].value == "1.2"
    assert "compute" not in metadata


def test_dagster_hears_what_the_step_reports(ran):
    assert any("Dagster hears this" in message for message in ran.log)
    assert not any("unexpected message" in message for message in ran.log)


def test_nothing_is_left_behind(ran):
    assert not ran.left_behind


def test_create_says_that_micromamba_is_missing(project, monkeypatch):
    flows: Project = project()
    flows.write("flow.py", FLOW)
    monkeypatch.setenv("METAFLOW_PATH_TO_MICROMAMBA", "/no/such/micromamba")
    shown = flows.refuses("flow.py", "create", "defs.py", top_level=PYPI)
    assert "Step start of flow PackagesFlow has the decorator @pypi" in shown.replace("*", "")
    assert "METAFLOW_PATH_TO_MICROMAMBA" in shown


UV_FLOW = """
import sys
from metaflow import FlowSpec, Parameter, step

class ShopFlow(FlowSpec):
    alpha = Parameter("alpha", default=0.5)

    @step
    def only(self):
        import tiny
        self.version, self.python, self.doubled = tiny.version, sys.executable, 2 * self.alpha

if __name__ == "__main__":
    ShopFlow()
"""
PYPROJECT = """
[project]
name = "shop"
version = "1.0"
requires-python = ">=3.10"
dependencies = []
"""


def _environment_with(folder: Path, *modules: Any) -> Path:
    """The interpreter of an environment with what Metaflow requires, and some packages of this one."""
    python = virtual_environment(folder)
    link_requirements("metaflow", folder)
    for module in modules:
        place = site_packages(folder).joinpath(*module.__name__.split("."))
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(Path(module.__file__).parent)
    return python


def test_wrapper_works_in_an_interpreter_without_dagster(tmp_path, monkeypatch):
    flows = Project.of(tmp_path / "project", "one_step.py")
    job = job_of(flows.compile("one_step.py"))
    python = _environment_with(tmp_path / "without", metaflow, dagster_pipes, step_wrapper, extension)
    assert subprocess.run([python, "-c", "import dagster"], stderr=subprocess.DEVNULL, check=False).returncode
    monkeypatch.setattr("sys.executable", str(python))
    result = execute(job)
    assert result.success
    assert flows.run_of(result).data.result == "HELLO"


def test_step_of_a_uv_project_runs_with_the_interpreter_of_the_project(project, monkeypatch):
    flows: Project = project()
    flows.write("flow.py", UV_FLOW)
    flows.write("pyproject.toml", PYPROJECT)
    python = _environment_with(flows.folder / ".venv", metaflow)
    (site_packages(flows.folder / ".venv") / "tiny.py").write_text("version = '1.2'")
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    subprocess.run(["uv", "lock", "--offline", "--quiet"], cwd=flows.folder, check=True)
    result = execute(job_of(flows.compile("flow.py", top_level=("--environment", "uv"))), {"alpha": 2.0})
    assert result.success
    data = flows.run_of(result)["only"].task.data
    assert (data.version, data.doubled) == ("1.2", 4.0)
    assert Path(data.python).parent == python.parent
