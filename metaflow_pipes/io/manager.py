"""The IO manager of generated definitions files."""

from __future__ import annotations

from typing import Any

import dagster as dg

from metaflow_pipes.io.artifacts import ReadError
from metaflow_pipes.io.materialized import name_of, source_of
from metaflow_pipes.io.values import Output, RunValues, metadata_of
from metaflow_pipes.names import ASSET_OUTPUT

# The metadata of an input (`dagster.AssetIn`): the artifact that it takes; and, as for Dagster's own IO managers,
# whether partitions that have not been materialized are left out.
ARTIFACT = "artifact"
ALLOW_MISSING_PARTITIONS = "allow_missing_partitions"


class MetaflowIOManager(dg.IOManager):
    """Hands on the values between the ops of a flow, and the artifacts behind its assets.

    A value between ops is a short text that names Metaflow tasks. It is kept in Dagster's event log. Of an asset
    nothing is stored: Metaflow's datastore has it, and an asset of the user's takes it from there. The IO manager is
    part of every generated definitions file, under the key `metaflow_io`.

    Example:
        ```python
        @dg.asset(ins={"model": dg.AssetIn(["TrainFlow", "choose"], metadata={"artifact": "best_model"})})
        def report(model): ...
        ```

        In a code location without the flow:

        ```python
        model = dg.AssetIn(
            ["TrainFlow", "choose"], metadata={"artifact": "best_model"}, input_manager_key="metaflow_io"
        )

        @dg.asset(ins={"model": model})
        def report(model): ...

        defs = dg.Definitions(assets=[report], resources={"metaflow_io": MetaflowIOManager()})
        ```
    """

    def __init__(self) -> None:
        self._values = RunValues()

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Keep the value of an output; of a step's asset there is nothing to keep.

        Args:
            context: The output's context.
            obj: The value between ops: a text.

        Raises:
            dagster.Failure: It is the value of another asset than a step's.
        """
        if context.has_asset_key:
            if context.name != ASSET_OUTPUT and obj is not None:
                key = context.asset_key.to_user_string()
                raise dg.Failure(
                    f"The value of asset {key} can't be stored by MetaflowIOManager, which stores no assets: Metaflow "
                    "has stored those of a flow. Give the asset another io_manager_key.",
                    allow_retries=False,
                )
            return
        self._values.remember(context.run_id, _output(context), obj)
        context.add_output_metadata(metadata_of(obj, context.mapping_key))

    def load_input(self, context: dg.InputContext) -> Any:
        """The value of the output that an input takes; of a step's asset, an artifact or the task.

        The input's metadata `artifact` names the artifact; without it, the value is Metaflow's `Task`. Of a step in a
        foreach it is a list in the order of the items, of nested ones by all of their indices. A recursive step's is
        that of its last iteration. If the input takes several partitions, it is a dict with the partitions as keys.

        Args:
            context: The input's context.

        Raises:
            dagster.Failure: The event log does not have the value; or the asset has not been materialized, or can't be
                read.
        """
        if context.has_asset_key:
            return self._load_asset(context)
        upstream = context.upstream_output
        assert upstream is not None
        return self._values.load(context.instance, upstream.run_id, _output(upstream))

    def _load_asset(self, context: dg.InputContext) -> Any:
        if not context.has_asset_partitions:
            return _value(context)
        keys = context.asset_partition_keys
        if len(keys) == 1:
            return _value(context, keys[0])
        if (context.definition_metadata or {}).get(ALLOW_MISSING_PARTITIONS):
            keys = [key for key in keys if source_of(context, key) is not None]
        return {key: _value(context, key) for key in keys}


def _value(context: dg.InputContext, partition: str | None = None) -> Any:
    """The value that an input takes of an asset, or of one partition of it."""
    source = source_of(context, partition)
    takes = f"Input {context.name} takes asset {name_of(context, partition)}"
    if source is None:
        raise dg.Failure(
            f"{takes} which has not been materialized. Materialize it first, or together with what takes it.",
            allow_retries=False,
        )
    artifact = (context.definition_metadata or {}).get(ARTIFACT)
    if artifact is not None and not isinstance(artifact, str):
        raise dg.Failure(
            f"{takes} with the metadata {ARTIFACT}={artifact!r}, which is no name of an artifact.", allow_retries=False
        )
    try:
        return source.tasks() if artifact is None else source.artifact(artifact)
    except ReadError as error:
        raise dg.Failure(f"{takes} but {error}", metadata={"pathspec": source.pathspec}, allow_retries=False) from None


def _output(context: dg.OutputContext) -> Output:
    return Output(context.step_key, context.name, context.mapping_key)
