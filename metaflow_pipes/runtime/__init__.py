"""What a generated definitions file imports: the flow, the Pipes client, and the body of its ops."""

from metaflow_pipes.runtime.client import MetaflowPipesClient
from metaflow_pipes.runtime.executors import multiprocess
from metaflow_pipes.runtime.flow import MetaflowFlow, MetaflowFlowWarning
from metaflow_pipes.runtime.parameters import MetaflowParameter
from metaflow_pipes.runtime.step import run_step

__all__ = [
    "MetaflowFlow",
    "MetaflowFlowWarning",
    "MetaflowParameter",
    "MetaflowPipesClient",
    "multiprocess",
    "run_step",
]
