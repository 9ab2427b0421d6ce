"""The translator: what it says of assets, alone and beside the options of `create`."""

from __future__ import annotations

from dataclasses import replace

import dagster as dg
import pytest
from models import runtime_flow

from metaflow_pipes.runtime import (
    DagsterMetaflowTranslator,
    MetaflowCheck,
    MetaflowFlow,
    MetaflowStep,
    asset_specs,
    partitions_def_of,
)
from metaflow_pipes.runtime.assets.checks import blocking_checks

DAILY = dg.DailyPartitionsDefinition(start_date="2026-01-01")


class Daily(DagsterMetaflowTranslator):
    def get_partitions_def(self, flow, step):
        return DAILY


class PartlyDaily(DagsterMetaflowTranslator):
    def get_partitions_def(self, flow, step):
        return DAILY if step.name == "end" else None


class Pooled(DagsterMetaflowTranslator):
    def get_pool(self, flow, step):
        return "gpu" if step.name == "end" else None


@pytest.fixture
def flow(tmp_path) -> MetaflowFlow:
    return runtime_flow(
        tmp_path,
        steps=[MetaflowStep("start", line=7), MetaflowStep("end", ["start"], file="../base.py", line=3)],
    )


def test_code_references_lead_to_the_steps_source(flow, tmp_path):
    places = [
        (reference.file_path, reference.line_number)
        for spec in asset_specs(flow)
        for reference in spec.metadata["dagster/code_references"].code_references
    ]
    assert places == [(str(tmp_path / "flow.py"), 7), (str(tmp_path.parent / "base.py"), 3)]


def test_partitions_are_those_of_all_steps(flow):
    assert partitions_def_of(flow) is None
    daily = replace(flow, translator=Daily())
    assert partitions_def_of(daily) == DAILY
    assert [spec.partitions_def for spec in asset_specs(daily)] == [DAILY, DAILY]


def test_partitions_of_some_steps_are_refused(flow):
    with pytest.raises(dg.DagsterInvalidDefinitionError) as refused:
        asset_specs(replace(flow, translator=PartlyDaily()))
    assert (
        "The translator PartlyDaily gives the steps of flow SomeFlow different partitions: start has none, and end"
        in (str(refused.value))
    )


@pytest.mark.parametrize("option", [None, "gpu", "io"])
def test_option_and_translator_must_say_the_same(flow, option):
    start, end = flow.steps
    pooled = replace(flow, translator=Pooled(), steps=[replace(start, pool="io"), replace(end, pool=option)])
    # where the translator says nothing, the option does
    assert pooled.pool("start") == "io"
    if option != "io":
        assert pooled.pool("end") == "gpu"
        return
    with pytest.raises(dg.DagsterInvalidDefinitionError) as refused:
        pooled.pool("end")
    assert str(refused.value) == (
        "Step end of flow SomeFlow: get_pool of the translator Pooled says 'gpu', and the option --pool of "
        "`dagster create` says 'io'. Leave one of them out."
    )


class Checked(DagsterMetaflowTranslator):
    def get_check_specs(self, flow, step):
        checks = super().get_check_specs(flow, step)
        return checks if step.name == "end" else [dg.AssetCheckSpec("rows", asset="warehouse/table")]


def test_checks_are_those_of_the_steps(flow):
    start, end = flow.steps
    checked = replace(flow, steps=[start, replace(end, checks=[MetaflowCheck("rows", blocking=True)])])
    assert blocking_checks(checked, "start") == []
    assert blocking_checks(checked, "end") == ["rows"]


def test_checks_of_other_assets_and_of_one_name_are_refused(flow):
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="the check rows is one of asset warehouse/table"):
        blocking_checks(replace(flow, translator=Checked()), "start")
    start, end = flow.steps
    twice = replace(start, checks=[MetaflowCheck("rows"), MetaflowCheck("rows")])
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="the check rows is there twice"):
        blocking_checks(replace(flow, steps=[twice, end]), "start")
