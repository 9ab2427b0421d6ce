"""The IO manager of generated definitions files."""

from __future__ import annotations

from typing import Any

import dagster as dg

from metaflow_pipes.io.values import Output, RunValues, metadata_of


class MetaflowIOManager(dg.IOManager):
    """Hands on the values between the ops of a flow, and the artifacts behind its assets.

    A value between ops is a short text that names Metaflow tasks. It is kept in Dagster's event log. Of an asset
    nothing is stored: Metaflow's datastore has it.
    """

    def __init__(self) -> None:
        self._values = RunValues()

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Keep the value of an output; of an asset there is nothing to keep.

        Args:
            context: The output's context.
            obj: The value between ops: a text.
        """
        if context.has_asset_key:
            return
        self._values.remember(context.run_id, _output(context), obj)
        context.add_output_metadata(metadata_of(obj, context.mapping_key))

    def load_input(self, context: dg.InputContext) -> Any:
        """The value of the output that an input takes.

        Args:
            context: The input's context.

        Raises:
            dagster.Failure: The event log does not have it.
        """
        upstream = context.upstream_output
        assert upstream is not None
        return self._values.load(context.instance, upstream.run_id, _output(upstream))


def _output(context: dg.OutputContext) -> Output:
    return Output(context.step_key, context.name, context.mapping_key)
