"""The translator of an entry: the asset of each step is what the entry's `get_asset_spec` makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import dagster as dg

from metaflow_pipes.errors import CompileError
from metaflow_pipes.locations import staleness
from metaflow_pipes.runtime import DagsterMetaflowTranslator

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from metaflow_pipes.runtime import MetaflowFlow, MetaflowStep

# The metadata of an asset whose flow file has changed since it was compiled.
OUT_OF_DATE = "metaflow/out_of_date"


class SaysAssets(Protocol):
    """The source of what the asset of a step is: the component of an entry."""

    def get_asset_spec(self, flow: MetaflowFlow, step: MetaflowStep) -> dg.AssetSpec:
        """The step's asset, without what it depends on."""
        ...


@dataclass(frozen=True)
class Selection:
    """The steps that are assets, by patterns of their names, as in a shell: `train_*`.

    Attributes:
        select: The patterns of those that are; none is all.
        exclude: The patterns of those that are not, even so.
    """

    select: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def has(self, step: str) -> bool:
        """Whether a step is an asset."""
        return (not self.select or _matches(step, self.select)) and not _matches(step, self.exclude)

    def check(self, flows: Iterable[MetaflowFlow]) -> None:
        """Check that each pattern matches a step.

        Raises:
            CompileError: One matches none; says which steps there are.
        """
        steps = [step.name for flow in flows for step in flow.steps]
        for option, patterns in (("select", self.select), ("exclude", self.exclude)):
            for pattern in patterns:
                if not any(fnmatchcase(step, pattern) for step in steps):
                    raise CompileError(
                        f"{option} has {pattern}, but no step is called so. The steps are {', '.join(steps)}."
                    )


def _matches(step: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(step, pattern) for pattern in patterns)


def out_of_date(flow: MetaflowFlow) -> str | None:
    """The reason why a flow no longer is as it was compiled; None if it is, or if its steps run the code of that time.

    Args:
        flow: The flow.
    """
    if flow.package is not None and not flow.path.is_file():
        return None
    folder = Path(flow.folder)
    return staleness(flow.name, flow.path, flow.fingerprint, flow.definitions_file, folder, flow.compile_again)


def plain_spec(flow: MetaflowFlow, step: MetaflowStep) -> dg.AssetSpec:
    """The asset of a step as the translator says it, without the entry.

    Args:
        flow: A flow that is loaded with `entry_translator`.
        step: The step.
    """
    translator: Any = flow.translator
    return translator.plain.get_asset_spec(flow, step, [])


def entry_translator(
    entry: SaysAssets, selection: Selection, own: DagsterMetaflowTranslator | None
) -> DagsterMetaflowTranslator:
    """The translator of an entry's flow.

    Args:
        entry: Who says what the assets are.
        selection: The steps that are assets.
        own: The translator that the user names, or None.
    """
    base: Any = DagsterMetaflowTranslator if own is None else type(own)

    class EntryTranslator(base):
        """The user's translator, with the asset specs of the entry."""

        plain = base()

        def includes(self, flow: MetaflowFlow, step: MetaflowStep) -> bool:
            return super().includes(flow, step) and selection.has(step.name)

        def get_asset_key(self, flow: MetaflowFlow, step: MetaflowStep) -> dg.AssetKey:
            return entry.get_asset_spec(flow, step).key

        def get_asset_spec(
            self, flow: MetaflowFlow, step: MetaflowStep, upstream: Sequence[dg.AssetKey | dg.AssetDep]
        ) -> dg.AssetSpec:
            spec, plain = entry.get_asset_spec(flow, step), self.plain.get_asset_spec(flow, step, [])
            _check_partitions(flow, step, spec, plain)
            problem = out_of_date(flow)
            known = {dg.AssetDep.from_coercible(dep).asset_key for dep in upstream}
            return spec.replace_attributes(
                deps=[*upstream, *(dep for dep in spec.deps if dep.asset_key not in known)],
                automation_condition=self._condition(flow, step, spec, plain),
            ).merge_attributes(metadata={} if problem is None else {OUT_OF_DATE: problem})

        def _condition(
            self, flow: MetaflowFlow, step: MetaflowStep, spec: dg.AssetSpec, plain: dg.AssetSpec
        ) -> dg.AutomationCondition | None:
            """The step's condition. One that the entry gives to all steps is one for the flow as a whole."""
            given = spec.automation_condition
            if given == plain.automation_condition:
                return self.get_automation_condition(flow, step)
            others = [entry.get_asset_spec(flow, other) for other in flow.steps if self.includes(flow, other)]
            if given is None or any(other.automation_condition != given for other in others):
                return given
            return self.for_whole_flow(flow, step, given)

    return cast("DagsterMetaflowTranslator", EntryTranslator())


def _check_partitions(flow: MetaflowFlow, step: MetaflowStep, spec: dg.AssetSpec, plain: dg.AssetSpec) -> None:
    if spec.partitions_def != plain.partitions_def:
        raise CompileError(
            f"The asset of step {step.name} of flow {flow.name} gets partitions that the flow's job does not have. Use "
            "the attribute `partitions`, which says which parameter their keys fill, or get_partitions_def of a "
            "translator."
        )
