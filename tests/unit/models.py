"""Small models for the unit tests."""

from __future__ import annotations

from metaflow_pipes.compile.model import FlowModel, StepModel


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
