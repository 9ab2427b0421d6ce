"""What a generated definitions file imports: the flow, the Pipes client, and the body of its ops."""

from metaflow_pipes.runtime.assets import DagsterMetaflowTranslator, MetaflowStep
from metaflow_pipes.runtime.client import MetaflowPipesClient
from metaflow_pipes.runtime.executor import multiprocess, threads
from metaflow_pipes.runtime.fan_out import fan_out, gather, regroup, route
from metaflow_pipes.runtime.flow import MetaflowFlow, MetaflowFlowWarning
from metaflow_pipes.runtime.parameters import MetaflowParameter
from metaflow_pipes.runtime.step import (
    run_foreach_step,
    run_loop_step,
    run_routed_step,
    run_split_step,
    run_step,
    run_switch_step,
)

__all__ = [
    "DagsterMetaflowTranslator",
    "MetaflowFlow",
    "MetaflowFlowWarning",
    "MetaflowParameter",
    "MetaflowPipesClient",
    "MetaflowStep",
    "fan_out",
    "gather",
    "multiprocess",
    "regroup",
    "route",
    "run_foreach_step",
    "run_loop_step",
    "run_routed_step",
    "run_split_step",
    "run_step",
    "run_switch_step",
    "threads",
]
