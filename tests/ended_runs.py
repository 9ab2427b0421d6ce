"""Runs that end in several ways, and ticks of the sensors that follow up on them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg
from support import load, persistent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from support import Project

PATIENCE_SECONDS = 120
DONE = "HookedFlow_exit_hooks is done with this run."


@dataclass
class Ticks:
    """The ticks of one sensor of a definitions file, which share a cursor as a daemon's do."""

    instance: dg.DagsterInstance
    sensor: dg.SensorDefinition
    cursor: str | None = None

    @classmethod
    def of(cls, instance: dg.DagsterInstance, definitions: Path, name: str) -> Ticks:
        sensors: Any = load(definitions).defs.sensors
        return cls(instance, next(sensor for sensor in sensors if sensor.name == name))

    def tick(self) -> str:
        """The message of a tick in Dagster's UI."""
        with dg.build_sensor_context(self.instance, cursor=self.cursor, sensor_name=self.sensor.name) as context:
            data = self.sensor.evaluate_tick(context)
        self.cursor = data.cursor
        assert data.skip_message is not None
        return data.skip_message

    def until(self, text: str) -> str:
        """The first tick that says something."""
        return until(lambda: said if text in (said := self.tick()) else "")


def until(condition: Callable[[], Any], seconds: float = PATIENCE_SECONDS, what: str = "a condition") -> Any:
    """The first true value of a condition."""
    give_up_at = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < give_up_at, f"waited {seconds} s for: {what}"
        time.sleep(0.1)
    return value


def instance_in(home: Path) -> Iterator[dg.DagsterInstance]:
    home.mkdir()
    (home / "dagster.yaml").touch()
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def run_job(
    project: Project, instance: dg.DagsterInstance, tags: Mapping[str, str] | None = None, **parameters: Any
) -> str:
    """Run the job of `defs.py` as a daemon's run would, without a watching process; the Dagster run's id."""
    config = {"ops": {"start": {"config": parameters}}} if parameters else None
    options: dict[str, Any] = {"run_config": config, "raise_on_error": False, "tags": tags}
    return dg.execute_job(persistent(project.folder / "defs.py"), instance, **options).run_id


def notes(project: Project) -> list[str]:
    """The notes of hooks, a line each."""
    file = project.folder / "hooks"
    return file.read_text().splitlines() if file.exists() else []


def engine_events(instance: dg.DagsterInstance, run_id: str) -> str:
    """The engine events of a run as its page shows them, with their errors."""
    lines = []
    for entry in instance.all_logs(run_id, dg.DagsterEventType.ENGINE_EVENT):
        data: Any = entry.get_dagster_event().event_specific_data
        lines += [entry.message, "" if data.error is None else data.error.message]
    return "\n".join(lines)


def hooks_of(flows: Project, instance: dg.DagsterInstance, run_id: str, status: str) -> list[str]:
    """The hooks that have run after a run of HookedFlow, once they are done with it; the run has this status."""
    until(lambda: DONE in engine_events(instance, run_id))
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert run.status.value == status
    return sorted(line.split()[0] for line in notes(flows) if f"HookedFlow/dagster-{run_id}" in line)
