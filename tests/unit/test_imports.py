"""Metaflow's side is imported by every Metaflow process: it must be light, and know nothing of Dagster."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


def _imported_by(code: str) -> set[str]:
    script = f"import sys; before = set(sys.modules); {code}; import json; print(json.dumps(sorted(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    return set(json.loads(output.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import metaflow",
        "import metaflow_pipes",
        "import metaflow_pipes.cli.group",
        "import metaflow, step_wrapper.supervisor, step_wrapper.report.report, step_wrapper.step.process",
        "import metaflow, step_wrapper.step.decorator",
    ],
)
def test_metaflows_side_does_not_import_dagster(code):
    imported = _imported_by(code)
    assert not {"dagster", "jinja2", "metaflow_pipes.runtime", "metaflow_pipes.api.compiler"} & imported


@pytest.mark.parametrize(
    "code",
    [
        "import metaflow_pipes.runtime, metaflow_pipes.io",
        # as Dagster looks for components in each code server, and as such are used
        "import metaflow_pipes; [getattr(metaflow_pipes, name) for name in dir(metaflow_pipes)]",
        "from metaflow_pipes import load_flow_definitions",
    ],
)
def test_definitions_do_not_import_metaflow(code):
    assert "metaflow" not in _imported_by(code)


def test_supervisor_does_not_import_metaflow():
    assert not {"metaflow", "dagster", "asyncio"} & _imported_by(
        "import step_wrapper.__main__, step_wrapper.supervisor"
    )


def test_extension_is_found_beside_other_extensions():
    from importlib import metadata

    top_level = metadata.distribution("metaflow-pipes").read_text("top_level.txt") or ""
    assert "metaflow_extensions" in top_level.split()
