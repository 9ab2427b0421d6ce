"""Interpreters that have less than the one that runs the tests."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from importlib import metadata
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

if TYPE_CHECKING:
    from pathlib import Path


def virtual_environment(folder: Path) -> Path:
    """Make a virtual environment with nothing in it, and return the path of its `python`."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder / "bin" / "python"


def site_packages(environment: Path) -> Path:
    """The folder of the packages of a virtual environment."""
    return type(environment)(sysconfig.get_path("purelib", vars={"base": str(environment)}))


def link_requirements(distribution: str, environment: Path) -> None:
    """Let a virtual environment have all that a distribution requires, but not the distribution itself."""
    packages = site_packages(environment)
    for name in _requirements(distribution, set()):
        required = metadata.distribution(name)
        # what is above this folder, such as scripts, can't be imported
        for entry in {file.parts[0] for file in required.files or ()} - {"..", "__pycache__"}:
            if not (packages / entry).exists():
                (packages / entry).symlink_to(str(required.locate_file(entry)))


def _requirements(distribution: str, known: set[str]) -> set[str]:
    for line in metadata.requires(distribution) or ():
        requirement = Requirement(line)
        if requirement.name not in known and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            known.add(requirement.name)
            _requirements(requirement.name, known)
    return known
