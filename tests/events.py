"""Tools for tests of triggers: events, ticks of sensors, and the runs that those ask for."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dagster as dg
from support import load

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def publish(instance: dg.DagsterInstance, name: str, payload: Mapping[str, Any] | None = None) -> None:
    """Publish an event as an asset's materialization, as any process can."""
    key = name.removeprefix("asset:").split("/") if name.startswith("asset:") else ["metaflow_event", *name.split("/")]
    instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata=dict(payload or {})))


def published(instance: dg.DagsterInstance, name: str) -> list[dict[str, Any]]:
    """The fields of the events of a name, the first one first."""
    key = dg.AssetKey(["metaflow_event", *name.split("/")])
    records = instance.fetch_materializations(key, limit=1000, ascending=True).records
    return [{k: v.value for k, v in record.asset_materialization.metadata.items()} for record in records]


@dataclass
class Ticks:
    """A sensor of a definitions file, evaluated as Dagster's daemon does, and its cursor."""

    definitions: dg.Definitions
    sensor: str
    instance: dg.DagsterInstance
    cursor: str | None = None
    skipped: str | None = None
    log: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, file: Path, sensor: str, instance: dg.DagsterInstance) -> Ticks:
        """The sensor, when it has looked for events once."""
        ticks = cls(load(file).defs, sensor, instance)
        assert ticks.tick() == []
        return ticks

    def tick(self) -> list[dg.RunRequest]:
        """The runs that a tick asks for."""
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor, definitions=self.definitions)
        handler = logging.Handler()
        handler.emit = lambda record: self.log.append(record.getMessage())
        context.log.addHandler(handler)
        data = self.definitions.resolve_sensor_def(self.sensor).evaluate_tick(context)
        self.cursor = data.cursor or self.cursor
        self.skipped = data.skip_message
        return list(data.run_requests)

    def run(self, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        """A run that a tick has asked for."""
        (job,) = [job for job in self.definitions.resolve_all_job_defs() if not job.name.startswith("__")]
        return job.execute_in_process(
            instance=self.instance, run_config=request.run_config, tags=request.tags, raise_on_error=False
        )


def config_of(request: dg.RunRequest) -> dict[str, Any]:
    """The parameters of a run that is asked for."""
    return request.run_config["ops"]["start"]["config"]
