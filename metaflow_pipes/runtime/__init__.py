"""The names that a generated definitions file imports: the flow, the Pipes client, and the body of its ops."""

import importlib.util
from typing import TYPE_CHECKING

from metaflow_pipes.file_format import CompilerVersion, installed_version
from metaflow_pipes.runtime.asset_graph import flow_assets
from metaflow_pipes.runtime.assets.specs import asset_specs, partitions_def_of
from metaflow_pipes.runtime.assets.translator import DagsterMetaflowTranslator
from metaflow_pipes.runtime.automation.conditions import automation_sensor
from metaflow_pipes.runtime.automation.events import trigger_sensor
from metaflow_pipes.runtime.automation.exit_hooks import exit_hook_sensor
from metaflow_pipes.runtime.automation.notifications import notification_sensor
from metaflow_pipes.runtime.automation.schedules import flow_schedule
from metaflow_pipes.runtime.client.client import MetaflowPipesClient
from metaflow_pipes.runtime.code import CodePackage
from metaflow_pipes.runtime.executors.configured import with_executor_config
from metaflow_pipes.runtime.executors.kubernetes import on_kubernetes
from metaflow_pipes.runtime.executors.multiprocess import multiprocess
from metaflow_pipes.runtime.executors.threads import threads
from metaflow_pipes.runtime.fan_out import collect, fan_out, gather, regroup, route
from metaflow_pipes.runtime.flow import MetaflowFlow, MetaflowFlowWarning
from metaflow_pipes.runtime.outs import step_outs
from metaflow_pipes.runtime.parameters import MetaflowParameter
from metaflow_pipes.runtime.partitions import MetaflowPartitions
from metaflow_pipes.runtime.release_0_1 import (
    run_foreach_step,
    run_loop_step,
    run_routed_step,
    run_split_step,
    run_switch_step,
)
from metaflow_pipes.runtime.resources import RESOURCES
from metaflow_pipes.runtime.step import run_step
from metaflow_pipes.runtime.steps import MetaflowCheck, MetaflowStep

__all__ = [
    "RESOURCES",
    "CodePackage",
    "CompilerVersion",
    "DagsterMetaflowTranslator",
    "MetaflowCheck",
    "MetaflowFlow",
    "MetaflowFlowWarning",
    "MetaflowParameter",
    "MetaflowPartitions",
    "MetaflowPipesClient",
    "MetaflowStep",
    "asset_specs",
    "automation_sensor",
    "collect",
    "exit_hook_sensor",
    "fan_out",
    "flow_assets",
    "flow_schedule",
    "gather",
    "multiprocess",
    "notification_sensor",
    "on_kubernetes",
    "partitions_def_of",
    "regroup",
    "route",
    "run_foreach_step",
    "run_loop_step",
    "run_routed_step",
    "run_split_step",
    "run_step",
    "run_switch_step",
    "step_outs",
    "threads",
    "trigger_sensor",
    "with_executor_config",
]


if not TYPE_CHECKING:  # type checkers would take any name for one that is there

    def __getattr__(name: str) -> object:
        """Refuse a name that only a later version has, since a file of that version imports it before all else."""
        if name.startswith("_") or importlib.util.find_spec(f"{__name__}.{name}") is not None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        raise ImportError(
            f"metaflow_pipes.runtime has no {name!r} in metaflow-pipes {installed_version()}, which is installed here. "
            "If a definitions file asks for it, a later version has compiled that: the file's first line says which. "
            "Upgrade metaflow-pipes to it, or compile the flow again: python flow.py dagster create"
        )
