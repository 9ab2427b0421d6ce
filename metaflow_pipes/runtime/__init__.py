"""What a generated definitions file imports: the flow, the Pipes client, and the body of its ops."""

from metaflow_pipes.runtime.assets.translator import DagsterMetaflowTranslator
from metaflow_pipes.runtime.client.client import MetaflowPipesClient
from metaflow_pipes.runtime.executors.multiprocess import multiprocess
from metaflow_pipes.runtime.executors.threads import threads
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
from metaflow_pipes.runtime.steps import MetaflowStep

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
