"""The IO manager of generated definitions files: it stores what the ops of a flow hand on."""

from metaflow_pipes.io.manager import MetaflowIOManager

__all__ = ["MetaflowIOManager"]
