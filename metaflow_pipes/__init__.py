"""Metaflow flows on Dagster: every Metaflow task is a Dagster step, launched through Dagster Pipes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metaflow_pipes.api.compiler import DagsterCompiler
    from metaflow_pipes.api.events import DagsterEvent
    from metaflow_pipes.errors import CompileError, DeploymentError

__all__ = ["CompileError", "DagsterCompiler", "DagsterEvent", "DeploymentError"]


def __getattr__(name: str) -> object:
    # Metaflow imports this package in each of its commands to find ours, so nothing may be imported in vain.
    if name == "DagsterCompiler":
        from metaflow_pipes.api.compiler import DagsterCompiler

        return DagsterCompiler
    if name == "DagsterEvent":
        from metaflow_pipes.api.events import DagsterEvent

        return DagsterEvent
    if name in ("CompileError", "DeploymentError"):
        from metaflow_pipes import errors

        return getattr(errors, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
