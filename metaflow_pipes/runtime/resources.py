"""The resources of the ops of all flows: a code location can hold many flows, and Dagster wants one of each name."""

import dagster as dg

from metaflow_pipes.io import MetaflowIOManager
from metaflow_pipes.names import IO_RESOURCE, PIPES_RESOURCE
from metaflow_pipes.runtime.client.client import MetaflowPipesClient

RESOURCES: dict[str, dg.ResourceDefinition] = {
    PIPES_RESOURCE: dg.ResourceDefinition.hardcoded_resource(MetaflowPipesClient()),
    IO_RESOURCE: dg.IOManagerDefinition.hardcoded_io_manager(MetaflowIOManager()),
}
