"""Small models for the unit tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metaflow_pipes.compile.flow_model import FlowModel, StepModel
from metaflow_pipes.runtime import MetaflowFlow

if TYPE_CHECKING:
    from pathlib import Path

# Of the empty flow file of `runtime_flow`.
NO_SOURCE = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def runtime_flow(folder: Path, **more: Any) -> MetaflowFlow:
    """A flow as a definitions file in a folder has it."""
    (folder / "flow.py").write_text("")
    facts = {
        "name": "SomeFlow",
        "file": "flow.py",
        "definitions_file": str(folder / "defs.py"),
        "working_directory": ".",
        "fingerprint": NO_SOURCE,
        "top_level_args": [],
        "datastore": "local",
        "datastore_root": ".metaflow",
        "user": "ann",
    }
    return MetaflowFlow(**{**facts, **more})


def step_model(name: str, *in_steps: str, is_join: bool = False) -> StepModel:
    return StepModel(name=name, is_join=is_join, in_steps=in_steps)


def flow_model(*steps: StepModel, name: str = "SomeFlow") -> FlowModel:
    return FlowModel(
        name=name,
        deployment_name=name,
        is_project=False,
        description="",
        file="/project/flow.py",
        working_directory="/project",
        fingerprint="sha256:0",
        steps=steps,
        parameters=(),
        configs={},
        top_level_args=(),
        datastore="local",
        datastore_root="/project/.metaflow",
        settings={},
        withheld_settings=(),
        user="tester",
    )
