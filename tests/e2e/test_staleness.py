"""A step whose source has changed is out of date until it runs again, with its job or by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest
from support import Project, execute, load

if TYPE_CHECKING:
    from types import ModuleType

FLOW = """
from metaflow import FlowSpec, step


class AgedFlow(FlowSpec):
    @step
    def start(self):
        self.next(self.middle, self.side)

    @step
    def middle(self):
        self.number = 1
        self.next(self.join)

    @step
    def side(self):
        self.next(self.join)

    @step
    def join(self, inputs):
        self.result = inputs.middle.number
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    AgedFlow()
"""
STEPS = ("start", "middle", "side", "join", "end")
FRESH = dict.fromkeys(STEPS, "FRESH")


def statuses(module: ModuleType, instance: dg.DagsterInstance) -> dict[str, str]:
    """The status of each step's asset, as the UI shows it."""
    resolver = _resolver(module, instance)
    return {step: resolver.get_status(_key(step)).value for step in STEPS}


def causes(module: ModuleType, instance: dg.DagsterInstance, step: str) -> list[str]:
    """Why a step's asset is out of date."""
    return [cause.reason for cause in _resolver(module, instance).get_stale_root_causes(_key(step))]


def _resolver(module: ModuleType, instance: dg.DagsterInstance) -> CachingStaleStatusResolver:
    return CachingStaleStatusResolver(instance, module.defs.resolve_asset_graph(), LoadingContextForTest(instance))


def _key(step: str) -> dg.AssetKey:
    return dg.AssetKey(["AgedFlow", step])


def test_changed_step_is_out_of_date_and_what_takes_its_new_data_until_they_run_again(project):
    flows: Project = project()
    source = flows.write("aged.py", FLOW)
    with dg.DagsterInstance.ephemeral() as instance:
        module = load(flows.compile("aged.py"))
        assert execute(module.JOB, instance=instance).success
        assert statuses(module, instance) == FRESH

        source.write_text(FLOW.replace("self.number = 1", "self.number = 2"))
        module = load(flows.compile("aged.py"))
        assert statuses(module, instance) == {**FRESH, "middle": "STALE"}
        assert causes(module, instance, "middle") == ["has a new code version"]
        assert dg.materialize(module.ASSETS, selection=[_key("middle")], instance=instance).success
        assert statuses(module, instance) == {**FRESH, "join": "STALE"}
        assert causes(module, instance, "join") == ["has a new data version"]
        selected = [_key(step) for step in ("middle", "join", "end")]
        assert dg.materialize(module.ASSETS, selection=selected, instance=instance).success
        assert statuses(module, instance) == FRESH

        source.write_text(FLOW.replace("self.number = 1", "self.number = 3"))
        module = load(flows.compile("aged.py"))
        assert statuses(module, instance) == {**FRESH, "middle": "STALE"}
        assert execute(module.JOB, instance=instance).success
        assert statuses(module, instance) == FRESH
