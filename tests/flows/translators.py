"""Translators that users could write."""

from datetime import timedelta

import dagster as dg

from metaflow_pipes.runtime import DagsterMetaflowTranslator


class ShopTranslator(DagsterMetaflowTranslator):
    def includes(self, flow, step):
        return step.name != "first"

    def get_asset_key(self, flow, step):
        return super().get_asset_key(flow, step).with_prefix("shop")

    def get_group_name(self, flow, step):
        return "shop"

    def get_owners(self, flow, step):
        return ["team:shop"]

    def get_tags(self, flow, step):
        return {"domain": "sales"}

    def get_kinds(self, flow, step):
        return {"metaflow"}

    def get_metadata(self, flow, step):
        return {**super().get_metadata(flow, step), "wiki": "pages/shop"}

    def get_automation_condition(self, flow, step):
        return dg.AutomationCondition.eager() if step.name == "end" else None

    def get_freshness_policy(self, flow, step):
        return dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=24))


class StrictTranslator(DagsterMetaflowTranslator):
    def get_check_specs(self, flow, step):
        no_nulls = dg.AssetCheckSpec("no_nulls", asset=self.get_asset_key(flow, step), blocking=True)
        return [*super().get_check_specs(flow, step), *([no_nulls] if step.name == "end" else [])]


NO_CLASS = "text"
