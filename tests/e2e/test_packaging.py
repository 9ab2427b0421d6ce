"""The package installs as any other: in any version, with all its files, and so that Metaflow finds its extension."""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from interpreters import site_packages, virtual_environment

if TYPE_CHECKING:
    from support import Project

ROOT = Path(__file__).parents[2]
PACKAGES = ("metaflow_extensions", "metaflow_pipes", "step_wrapper")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This package of another version, in a folder of its own."""
    folder = tmp_path_factory.mktemp("sources")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for file in ("README.md", "LICENSE", "setup.cfg"):
        shutil.copy(ROOT / file, folder)
    lines = (ROOT / "pyproject.toml").read_text().splitlines(keepends=True)
    changed = ['version = "98.7.6"\n' if line.startswith("version = ") else line for line in lines]
    (folder / "pyproject.toml").write_text("".join(changed))
    return folder


@pytest.fixture
def installed(tmp_path: Path):
    """Installs the package, without its dependencies, which are those of the tests; gives the interpreter."""

    def install(*what: str) -> Path:
        environment = tmp_path / "environment"
        python = virtual_environment(environment)
        (site_packages(environment) / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
        options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
        subprocess.run([sys.executable, "-m", "pip", "--python", str(python), "install", *options, *what], check=True)
        return python

    return install


def _compiled(python: Path, project: Project) -> str:
    """A definitions file, written by an interpreter's own package."""
    command = [str(python), "one_step.py", "--no-pylint", "dagster", "create", "defs.py"]
    subprocess.run(command, cwd=project.folder, env={**os.environ, "PYTHONPATH": ""}, check=True)
    return (project.folder / "defs.py").read_text()


def _runs(python: Path, project: Project, home: Path) -> None:
    """Run the flow on Dagster, by the interpreter's own package alone."""
    command = [str(python), "one_step.py", "dagster", "trigger", "--definitions-file", "defs.py", "--wait"]
    env = {**os.environ, "PYTHONPATH": "", "DAGSTER_HOME": str(home)}
    finished = subprocess.run(command, cwd=project.folder, env=env, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def _files(folder: Path) -> set[str]:
    files = {path.relative_to(folder) for package in PACKAGES for path in (folder / package).rglob("*.*")}
    return {str(path) for path in files if not any("__pycache__" in part or ".egg-info" in part for part in path.parts)}


def test_wheel_from_sdist_has_all_files_and_no_others(sources, installed, project, tmp_path):
    build = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=sources, check=True, stdout=subprocess.DEVNULL)
    python = installed(str(tmp_path / "metaflow_pipes-98.7.6.tar.gz"))
    flows: Project = project("one_step.py")
    assert "98.7.6" in _compiled(python, flows)
    _runs(python, flows, tmp_path)
    packages = site_packages(tmp_path / "environment")
    assert _files(packages) == _files(ROOT)
    assert {f"{package}/py.typed" for package in ("metaflow_pipes", "step_wrapper")} <= _files(packages)
    (metadata,) = packages.glob("metaflow_pipes-*/METADATA")
    about = email.message_from_string(metadata.read_text())
    assert {"Homepage", "Documentation", "Repository", "Changelog", "Issues"} == {
        url.partition(",")[0] for url in about.get_all("Project-URL", [])
    }
    assert about["Description-Content-Type"] == "text/markdown"
    assert str(about.get_payload()).strip() == (ROOT / "README.md").read_text().strip()
    (top_level,) = packages.glob("metaflow_pipes-*/top_level.txt")
    assert tuple(top_level.read_text().split()) == PACKAGES


def test_editable_install_is_a_folder_on_the_path(sources, installed, project, tmp_path):
    python = installed("--editable", str(sources))
    assert "98.7.6" in _compiled(python, project("one_step.py"))
    # no hook that each interpreter would import
    (path_file,) = site_packages(tmp_path / "environment").glob("*metaflow_pipes*.pth")
    assert path_file.read_text().strip() == str(sources)
