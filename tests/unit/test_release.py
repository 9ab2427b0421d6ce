"""A release: its workflows, its changelog, and the versions that it was tested with."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.fixture(scope="module")
def matrix():
    spec = importlib.util.spec_from_file_location("matrix", ROOT / "tools" / "matrix.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_what_is_there(workflow):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    jobs = yaml.safe_load(workflow.read_text())["jobs"]
    for command in (step["run"] for job in jobs.values() for step in job["steps"] if "run" in step):
        assert set(re.findall(r"^make ([\w-]+)", command, re.MULTILINE)) <= set(targets)
        assert all((ROOT / script).exists() for script in re.findall(r"^\.ci/\w+", command, re.MULTILINE))


def test_changelog_begins_with_what_is_not_released():
    headings = re.findall(r"^## \[(.+?)\](?: - \d{4}-\d\d-\d\d)?$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert len(headings) == len(set(headings))


def test_matrix_asks_for_the_lowest_versions_that_are_allowed(matrix):
    text = (ROOT / "pyproject.toml").read_text()
    for constraint in matrix.lowest():
        assert f'"{constraint.replace("==", ">=")},<' in text


def test_matrix_says_what_it_has_passed_with(matrix):
    tested = [
        {"python": "3.10", "metaflow": "2.19.0", "dagster": "1.13.0"},
        {"python": "3.13", "metaflow": "2.19.39", "dagster": "1.13.9"},
        {"python": "3.13", "metaflow": "2.19.4", "dagster": "1.13.29"},
    ]
    assert matrix.sentence(tested) == (
        "Tested with Metaflow 2.19.0 to 2.19.39, Dagster 1.13.0 to 1.13.29, and Python 3.10 to 3.13."
    )
