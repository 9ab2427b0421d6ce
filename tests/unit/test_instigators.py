"""The code locations whose schedules and sensors are those of a deployment."""

from __future__ import annotations

from pathlib import Path

import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    CodeLocationOrigin,
    GrpcServerCodeLocationOrigin,
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RegisteredCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, ScheduleInstigatorData
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from metaflow_pipes.runs.instigators import _is_of


def _loaded(name: str | None = None, **target: str) -> CodeLocationOrigin:
    return ManagedGrpcPythonEnvCodeLocationOrigin(LoadableTargetOrigin(**target), name)


@pytest.mark.parametrize(
    ("location", "is_of"),
    [
        (RegisteredCodeLocationOrigin("defs.py"), True),
        (RegisteredCodeLocationOrigin("other.py"), False),
        (_loaded("flows", python_file="defs.py", working_directory="/flows"), True),
        (_loaded("flows", python_file="defs.py", working_directory="/others"), False),
        (_loaded("flows", module_name="flows.defs"), True),
        (_loaded("flows", module_name="flows.others"), False),
        (GrpcServerCodeLocationOrigin("localhost", 4000, location_name="defs.py"), True),
        # nobody here knows what it holds
        (GrpcServerCodeLocationOrigin("localhost", 4000, location_name="flows"), False),
    ],
)
def test_state_is_of_a_location_that_holds_the_file(location: CodeLocationOrigin, is_of: bool) -> None:
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "__repository__"), "MyFlow_schedule")
    state = InstigatorState(origin, InstigatorType.SCHEDULE, InstigatorStatus.RUNNING, ScheduleInstigatorData("@daily"))
    assert _is_of(state, Path("/flows/defs.py")) == is_of
