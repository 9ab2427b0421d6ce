"""The translator: says how the steps of a flow become Dagster assets, a method for each part, and their pools."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

import dagster as dg

from metaflow_pipes.locations import beside
from metaflow_pipes.names import EVENT_ASSET

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from metaflow_pipes.runtime.flow import MetaflowFlow
    from metaflow_pipes.runtime.steps import MetaflowStep

T = TypeVar("T")
# The metadata by which Dagster knows an asset's code references.
CODE_REFERENCES = "dagster/code_references"


class DagsterMetaflowTranslator:
    """Says how the steps of a flow become Dagster assets.

    Override a method to change what it says, and give the class to the compiler by its import path:
    `python flow.py dagster create --translator package.module:ShopTranslator`. It is made without arguments, when
    Dagster loads the definitions file. Options of `create` say some of this as well; what both say of one step, and
    not the same, is an error.

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
        """The Dagster pool of the step's op, whose limit holds for its tasks in all runs: that of `create --pool`.

        Example:
            ```python
            def get_pool(self, flow, step):
                return "gpu" if step.name == "train" else super().get_pool(flow, step)
            ```
        """
        return step.pool

    def get_partitions_def(self, flow: MetaflowFlow, step: MetaflowStep) -> dg.PartitionsDefinition | None:  # noqa: ARG002
        """The partitions of the asset, and of the flow's job: those of `create --partition-by`.

        A run of the flow makes all of its assets, so they have the same partitions: say it of each step.

        Example:
            ```python
            def get_partitions_def(self, flow, step):
                return dg.DailyPartitionsDefinition(start_date="2026-01-01")
            ```
        """
        return None if flow.partitions is None else flow.partitions.definition

    def get_deps(self, flow: MetaflowFlow, step: MetaflowStep) -> Sequence[dg.AssetKey | dg.AssetDep | str]:
        """The assets of others that the step's asset depends on: those of `create --depends-on`.

        The step begins when they are materialized, if that is in the same run. Those of a step without an asset are
        handed on to the steps behind it.

        Example:
            ```python
            def get_deps(self, flow, step):
                return [dg.AssetKey(["raw", "events"])] if step.name == "start" else []
            ```
        """
        first = [] if step.upstream else flow.depends_on
        return [dg.AssetKey.from_user_string(key) for key in [*first, *step.depends_on]]

    def get_automation_condition(self, flow: MetaflowFlow, step: MetaflowStep) -> dg.AutomationCondition | None:
        """The condition by which Dagster materializes the asset: that of `create --automation`, for the whole flow.

        Example:
            ```python
            def get_automation_condition(self, flow, step):
                return self.for_whole_flow(flow, step, dg.AutomationCondition.on_cron("0 6 * * *", "Europe/Berlin"))
            ```
        """
        return None if flow.automation is None else self.for_whole_flow(flow, step, flow.automation)

    def for_whole_flow(
        self, flow: MetaflowFlow, step: MetaflowStep, condition: dg.AutomationCondition
    ) -> dg.AutomationCondition:
        """A condition by which the flow is materialized as a whole, in one run.

        It asks for the flow's first assets, and for those that depend on assets of others: when one of those others
        makes it so. All that is behind an asset that is asked for is asked for with it. Without this, each step of a
        run of the job would be something new to the step behind it.

        Args:
            flow: The flow.
            step: The step.
            condition: When the flow is to run, as of an asset that depends on what the step depends on outside of the
                flow.
        """
        own = dg.AssetSelection.assets(*[self.get_asset_key(flow, s) for s in flow.steps if self.includes(flow, s)])
        inside = own | dg.AssetSelection.key_prefixes([EVENT_ASSET])
        ignore: Any = getattr(condition, "ignore", None)
        base = condition if ignore is None else ignore(inside)
        before = flow.with_steps_before([step.name]) - {step.name}
        is_first = not any(self.includes(flow, other) for other in flow.steps if other.name in before)
        if is_first:
            return base
        requested = dg.AutomationCondition.will_be_requested()
        behind = dg.AutomationCondition.any_deps_match(requested).allow(own).with_label("behind a step that runs")
        return (base | behind).with_label("of the flow") if self.get_deps(flow, step) else behind

    def get_freshness_policy(self, flow: MetaflowFlow, step: MetaflowStep) -> dg.FreshnessPolicy | None:  # noqa: ARG002
        """The age at which Dagster shows the asset as overdue: by default none.

        Example:
            ```python
            def get_freshness_policy(self, flow, step):
                return dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=24)) if step.name == "end" else None
            ```
        """
        return None

    def get_check_specs(self, flow: MetaflowFlow, step: MetaflowStep) -> Sequence[dg.AssetCheckSpec]:
        """The checks of the asset, which the step's code reports: those of its `@dagster_check`s.

        Example:
            ```python
            def get_check_specs(self, flow, step):
                no_nulls = dg.AssetCheckSpec("no_nulls", asset=self.get_asset_key(flow, step), blocking=True)
                return [*super().get_check_specs(flow, step), *([no_nulls] if step.name == "load" else [])]
            ```
        """
        key = self.get_asset_key(flow, step)
        return [
            dg.AssetCheckSpec(check.name, asset=key, description=check.description, blocking=check.blocking)
            for check in step.checks
        ]

    def get_code_references(self, flow: MetaflowFlow, step: MetaflowStep) -> dg.CodeReferencesMetadataValue | None:
        """The places of the asset's code, which Dagster's UI opens: the line where the step's source begins.

        Example:
            ```python
            def get_code_references(self, flow, step):
                url = f"https://git.example.com/shop/flows/blob/main/{flow.path.name}#L{step.line}"
                return dg.CodeReferencesMetadataValue(code_references=[dg.UrlCodeReference(url=url)])
            ```
        """
        file = flow.path if step.file is None else beside(flow.definitions_file, step.file)
        # their constructors warn each time that the classes are in beta
        reference = dg.LocalFileCodeReference.model_construct(file_path=str(file), line_number=step.line)
        return dg.CodeReferencesMetadataValue.model_construct(code_references=[reference])

    def get_metadata(self, flow: MetaflowFlow, step: MetaflowStep) -> Mapping[str, object]:
        """The asset's definition metadata: flow, step and flow file."""
        return {
            "metaflow/flow": flow.name,
            "metaflow/step": step.name,
            "metaflow/file": dg.MetadataValue.path(str(flow.path)),
        }

    def get_asset_spec(
        self, flow: MetaflowFlow, step: MetaflowStep, upstream: Sequence[dg.AssetKey | dg.AssetDep]
    ) -> dg.AssetSpec:
        """The step's asset, made of what the other methods say.

        Args:
            flow: The flow.
            step: The step.
            upstream: The assets that it depends on.
        """
        references = self.get_code_references(flow, step)
        given = None if flow.partitions is None else flow.partitions.definition
        partitions = self.get_partitions_def(flow, step)
        return dg.AssetSpec(
            key=self.get_asset_key(flow, step),
            deps=upstream,
            description=self.get_description(flow, step),
            metadata={
                **({} if references is None else {CODE_REFERENCES: references}),
                **self.get_metadata(flow, step),
            },
            group_name=self.get_group_name(flow, step),
            code_version=self.get_code_version(flow, step),
            owners=self.get_owners(flow, step),
            tags=self.get_tags(flow, step),
            kinds=set(self.get_kinds(flow, step)),
            partitions_def=said_once(
                flow, step, method="get_partitions_def", said=partitions, option="--partition-by", given=given
            ),
            automation_condition=self.get_automation_condition(flow, step),
            freshness_policy=self.get_freshness_policy(flow, step),
        )


def said_once(
    flow: MetaflowFlow, step: MetaflowStep, *, method: str, said: T | None, option: str, given: T | None
) -> T | None:
    """The word of the translator or of the command line on a step; None if neither says anything.

    Args:
        flow: The flow.
        step: The step.
        method: The name of the translator's method.
        said: What it says.
        option: The option of `create` that says the same, as on the command line.
        given: What the command line says.

    Raises:
        dagster.DagsterInvalidDefinitionError: Both say something, and not the same.
    """
    if said is None or given is None or said == given:
        return given if said is None else said
    raise dg.DagsterInvalidDefinitionError(
        f"Step {step.name} of flow {flow.name}: {method} of the translator {type(flow.translator).__name__} says "
        f"{said!r}, and the option {option} of `dagster create` says {given!r}. Leave one of them out."
    )
