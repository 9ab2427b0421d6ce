"""Starting and stopping the schedules and sensors of a deployment on an instance, without a daemon or a webserver.

Dagster keeps their states by the code location that they are in. That of a file is called like the file, unless a
workspace gives it another name; the instance knows of those that a daemon or the UI has seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    InProcessCodeLocationOrigin,
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RegisteredCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
    SensorInstigatorData,
)
from dagster._time import get_current_timestamp

from metaflow_pipes.runs.loading import load_automation

if TYPE_CHECKING:
    from metaflow_pipes.deployment.definitions_file import Deployment


def switch(instance: dg.DagsterInstance, deployment: Deployment, *, is_on: bool) -> list[str]:
    """Start or stop the schedules and sensors of a deployment, in each code location that holds them.

    Args:
        instance: The instance.
        deployment: The deployment.
        is_on: Whether they are started.

    Returns:
        Their names.

    Raises:
        DeploymentError: The definitions file can't be loaded.
    """
    definitions = load_automation(str(deployment.definitions_file))
    stored = list(instance.all_instigator_state())
    default = RemoteRepositoryOrigin(
        RegisteredCodeLocationOrigin(deployment.definitions_file.name), SINGLETON_REPOSITORY_NAME
    )
    for definition in definitions:
        states = [
            state
            for state in stored
            if state.name == definition.name
            and state.instigator_type is _type(definition)
            and _is_of(state, deployment.definitions_file)
        ]
        for state in states:
            instance.update_instigator_state(_switched(state, definition, is_on=is_on))
        if all(state.origin.location_name != deployment.definitions_file.name for state in states):
            origin = RemoteInstigatorOrigin(repository_origin=default, instigator_name=definition.name)
            state = InstigatorState(origin, _type(definition), InstigatorStatus.STOPPED, _data(definition))
            instance.add_instigator_state(_switched(state, definition, is_on=is_on))
    return [definition.name for definition in definitions]


def _type(definition: dg.ScheduleDefinition | dg.SensorDefinition) -> InstigatorType:
    return InstigatorType.SCHEDULE if isinstance(definition, dg.ScheduleDefinition) else InstigatorType.SENSOR


def _is_of(state: InstigatorState, definitions_file: Path) -> bool:
    """Whether a state is that of a code location which holds a definitions file."""
    location = state.origin.repository_origin.code_location_origin
    if location.location_name == definitions_file.name:
        return True
    if not isinstance(location, InProcessCodeLocationOrigin | ManagedGrpcPythonEnvCodeLocationOrigin):
        # of a gRPC server, only that knows what it holds
        return False
    target = location.loadable_target_origin
    if target.python_file is not None:
        return Path(target.working_directory or ".", target.python_file).resolve() == definitions_file.resolve()
    return (target.module_name or "").rpartition(".")[2] == definitions_file.stem


def _data(definition: dg.ScheduleDefinition | dg.SensorDefinition) -> ScheduleInstigatorData | SensorInstigatorData:
    if isinstance(definition, dg.ScheduleDefinition):
        return ScheduleInstigatorData(definition.cron_schedule)
    return SensorInstigatorData(min_interval=definition.minimum_interval_seconds, sensor_type=definition.sensor_type)


def _switched(
    state: InstigatorState, definition: dg.ScheduleDefinition | dg.SensorDefinition, *, is_on: bool
) -> InstigatorState:
    """A state as Dagster's UI leaves it: a schedule begins anew, a sensor keeps its cursor."""
    if is_on == (state.status is not InstigatorStatus.STOPPED):
        return state
    switched = state.with_status(InstigatorStatus.RUNNING if is_on else InstigatorStatus.STOPPED)
    now = get_current_timestamp() if is_on else None
    if isinstance(definition, dg.ScheduleDefinition):
        return switched.with_data(ScheduleInstigatorData(definition.cron_schedule, start_timestamp=now))
    data = state.instigator_data
    if now is not None and isinstance(data, SensorInstigatorData):
        return switched.with_data(data.with_sensor_start_timestamp(now))
    return switched
