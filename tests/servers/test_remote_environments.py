"""Steps in Kubernetes whose environment Metaflow makes in their pod: that of `@pypi`, and that of a uv project."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests
from interpreters import site_packages
from servers.conftest import BUCKET
from support import Project, execute, job_of, output_metadata

if TYPE_CHECKING:
    from servers.cluster import Cluster

pytestmark = [
    pytest.mark.xdist_group("kubernetes"),  # one worker, with one cluster
    pytest.mark.skipif(
        platform.machine() != "x86_64", reason="Metaflow makes them for the machines of a usual cluster"
    ),
]

FLOW = """
import sys
from metaflow import FlowSpec, Parameter, kubernetes, pypi, step

class FarAwayFlow(FlowSpec):
    alpha = Parameter("alpha", default=0.5)

    {packages}
    @kubernetes
    @step
    def only(self):
        import tiny
        self.version, self.python, self.doubled = tiny.__version__, sys.executable, 2 * self.alpha

if __name__ == "__main__":
    FarAwayFlow()
"""
PYPROJECT = """
[project]
name = "far"
version = "1.0"
requires-python = ">=3.10"
dependencies = ["tiny==1.2"]

[tool.uv]
no-index = true
find-links = ["{page}"]
"""


def _pod_of(cluster: Cluster) -> Path:
    """The home of the newest pod."""
    return cluster.folder / "pods" / cluster.requests("POST")[-1]["job"]


def test_packages_of_a_step_are_installed_in_its_pod(cluster, project, monkeypatch):
    monkeypatch.setenv("METAFLOW_PATH_TO_MICROMAMBA", str(cluster.folder / "image/bin/micromamba"))
    flows: Project = project()
    flows.write("flow.py", FLOW.format(packages='@pypi(packages={"tiny": "1.2"})'))
    top_level = ("--datastore", "s3", "--environment", "pypi")
    result = execute(job_of(flows.compile("flow.py", top_level=top_level)), {"alpha": 2.0})
    assert result.success
    metadata = output_metadata(result, "only")
    assert metadata["compute"].value == "kubernetes"
    assert (metadata["version"].value, metadata["doubled"].value) == ("1.2", 4.0)
    assert metadata["python"].value.startswith(str(_pod_of(cluster) / "work/metaflow/linux-64/"))


def test_uv_project_is_installed_in_the_pod(cluster, shelf, project, monkeypatch):
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    flows: Project = project()
    flows.write("flow.py", FLOW.format(packages=""))
    image = str(site_packages(cluster.folder / "image"))
    wheels = [_wheel(flows.folder, "tiny", {"tiny.py": "__version__ = '1.2'"})]
    # which Metaflow adds; here those of the image
    wheels += [_wheel(flows.folder, name, {f"{name}.pth": image}) for name in ("requests", "boto3")]
    page = _page_with(wheels, f"{shelf.url}/{BUCKET}/wheels")
    flows.write("pyproject.toml", PYPROJECT.format(page=page))
    subprocess.run(["uv", "lock", "--quiet"], cwd=flows.folder, check=True)
    top_level = ("--datastore", "s3", "--environment", "uv")
    result = execute(job_of(flows.compile("flow.py", top_level=top_level)), {"alpha": 2.0})
    assert result.success
    metadata = output_metadata(result, "only")
    assert metadata["compute"].value == "kubernetes"
    assert (metadata["version"].value, metadata["doubled"].value) == ("1.2", 4.0)
    assert metadata["python"].value.startswith(str(_pod_of(cluster) / "work/metaflow/.venv/bin/"))


def _wheel(folder: Path, name: str, files: dict[str, str]) -> Path:
    """A wheel of version 1.2 with some files."""
    path = folder / f"{name}-1.2-py3-none-any.whl"
    about = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    contents = {**files, **{f"{name}-1.2.dist-info/{file}": text for file, text in about.items()}}
    record = "".join(f"{file},,\n" for file in [*contents, f"{name}-1.2.dist-info/RECORD"])
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in {**contents, f"{name}-1.2.dist-info/RECORD": record}.items():
            wheel.writestr(file, text)
    return path


def _page_with(wheels: list[Path], url: str) -> str:
    """Put wheels on a server, with a page of links to them, and return its address."""
    page = "".join(f'<a href="{url}/{wheel.name}">{wheel.name}</a>\n' for wheel in wheels)
    contents = {**{wheel.name: wheel.read_bytes() for wheel in wheels}, "index.html": page.encode()}
    for name, content in contents.items():
        headers = {"Content-Type": "text/html", "x-amz-acl": "public-read"}
        requests.put(f"{url}/{name}", data=content, headers=headers, timeout=30).raise_for_status()
    return f"{url}/index.html"
