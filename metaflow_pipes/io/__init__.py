"""What the ops of a flow hand on: the IO manager of generated definitions files."""

from metaflow_pipes.io.manager import MetaflowIOManager

__all__ = ["MetaflowIOManager"]
