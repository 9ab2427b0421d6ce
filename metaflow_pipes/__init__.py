"""Metaflow flows on Dagster: every Metaflow task is a Dagster step, launched through Dagster Pipes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metaflow_pipes.api.compiler import DagsterCompiler
    from metaflow_pipes.api.events import DagsterEvent
    from metaflow_pipes.component.component import MetaflowFlowComponent
    from metaflow_pipes.component.python import load_flow_definitions
    from metaflow_pipes.errors import CompileError, DeploymentError

__all__ = [
    "CompileError",
    "DagsterCompiler",
    "DagsterEvent",
    "DeploymentError",
    "MetaflowFlowComponent",
    "load_flow_definitions",
]


def __getattr__(name: str) -> object:
    # Metaflow imports this package in each of its commands to find ours, so nothing may be imported in vain.
    if name == "DagsterCompiler":
        from metaflow_pipes.api.compiler import DagsterCompiler

        return DagsterCompiler
    if name == "DagsterEvent":
        from metaflow_pipes.api.events import DagsterEvent

        return DagsterEvent
    if name == "MetaflowFlowComponent":
        from metaflow_pipes.component.component import MetaflowFlowComponent

        return MetaflowFlowComponent
    if name == "load_flow_definitions":
        from metaflow_pipes.component.python import load_flow_definitions

        return load_flow_definitions
    if name in ("CompileError", "DeploymentError"):
        from metaflow_pipes import errors

        return getattr(errors, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    # Dagster finds components by it, and imports all of what it names: so it names nothing that imports Metaflow.
    return [*globals(), "MetaflowFlowComponent"]
