"""The translator: says how the steps of a flow become Dagster assets, one method for each part, and their pools."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from metaflow_pipes.runtime.flow import MetaflowFlow
    from metaflow_pipes.runtime.steps import MetaflowStep


class DagsterMetaflowTranslator:
    """Says how the steps of a flow become Dagster assets.

    Override a method to change what it says, and give the class to the compiler by its import path:
    `python flow.py dagster create --translator package.module:ShopTranslator`. It is made without arguments, when
    Dagster loads the definitions file.

    Example:
        ```python
        from metaflow_pipes.runtime import DagsterMetaflowTranslator

        class ShopTranslator(DagsterMetaflowTranslator):
            def get_owners(self, flow, step):
                return ["team:shop"]

            def includes(self, flow, step):
                return step.name not in ("start", "end")
        ```
    """

    def includes(self, flow: MetaflowFlow, step: MetaflowStep) -> bool:  # noqa: ARG002
        """Whether the step has an asset. A step without one is skipped in the lineage."""
        return True

    def get_asset_key(self, flow: MetaflowFlow, step: MetaflowStep) -> dg.AssetKey:
        """The key of the step's asset: `[flow, step]`, `[project.branch.flow, step]` or `[job, step]`.

        Keys are unique in a code location. So that one flow can be deployed more than once, they begin with
        `flow.deployment_name`: with `@project` that of project, branch and flow, with `create --name` that of the job.
        """
        return dg.AssetKey([flow.deployment_name, step.name])

    def get_group_name(self, flow: MetaflowFlow, step: MetaflowStep) -> str | None:  # noqa: ARG002
        """The asset's group: the flow, or what else its key begins with."""
        return re.sub(r"[^A-Za-z0-9_]", "_", flow.deployment_name)

    def get_description(self, flow: MetaflowFlow, step: MetaflowStep) -> str | None:  # noqa: ARG002
        """The asset's description: the step's docstring."""
        return step.description

    def get_code_version(self, flow: MetaflowFlow, step: MetaflowStep) -> str | None:  # noqa: ARG002
        """The version of the code that makes the asset: a digest of the step's source."""
        return step.code_version

    def get_kinds(self, flow: MetaflowFlow, step: MetaflowStep) -> AbstractSet[str]:  # noqa: ARG002
        """The kinds by which Dagster shows and filters the asset: `metaflow` and `python`."""
        return {"metaflow", "python"}

    def get_tags(self, flow: MetaflowFlow, step: MetaflowStep) -> Mapping[str, str]:  # noqa: ARG002
        """The asset's tags: none."""
        return {}

    def get_owners(self, flow: MetaflowFlow, step: MetaflowStep) -> Sequence[str]:  # noqa: ARG002
        """The asset's owners, each an email address or `team:name`: none."""
        return []

    def get_pool(self, flow: MetaflowFlow, step: MetaflowStep) -> str | None:  # noqa: ARG002
        """The Dagster pool of the step's op, whose limit holds for its tasks in all runs: that of `create --pool`."""
        return step.pool

    def get_metadata(self, flow: MetaflowFlow, step: MetaflowStep) -> Mapping[str, object]:
        """The asset's definition metadata: flow, step and flow file."""
        return {
            "metaflow/flow": flow.name,
            "metaflow/step": step.name,
            "metaflow/file": dg.MetadataValue.path(str(flow.path)),
        }

    def get_asset_spec(self, flow: MetaflowFlow, step: MetaflowStep, upstream: Sequence[dg.AssetKey]) -> dg.AssetSpec:
        """The step's asset, made of what the other methods say.

        Args:
            flow: The flow.
            step: The step.
            upstream: The assets that it depends on.
        """
        return dg.AssetSpec(
            key=self.get_asset_key(flow, step),
            deps=upstream,
            description=self.get_description(flow, step),
            metadata=self.get_metadata(flow, step),
            group_name=self.get_group_name(flow, step),
            code_version=self.get_code_version(flow, step),
            owners=self.get_owners(flow, step),
            tags=self.get_tags(flow, step),
            kinds=set(self.get_kinds(flow, step)),
        )
