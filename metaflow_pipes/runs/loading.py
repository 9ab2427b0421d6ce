"""Loading a definitions file, in any process that runs its job."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from metaflow_pipes.errors import DeploymentError

if TYPE_CHECKING:
    import dagster as dg


def load_job(definitions_file: str, name: str) -> dg.JobDefinition:
    """Execute a definitions file, and return its job.

    Args:
        definitions_file: The absolute path of the file.
        name: The job.

    Raises:
        DeploymentError: The file can't be executed, or has no such job.
    """
    return job_in(load_definitions(definitions_file), definitions_file, name)


def job_in(definitions: dg.Definitions, definitions_file: str, name: str) -> dg.JobDefinition:
    """A job of definitions.

    Args:
        definitions: The definitions.
        definitions_file: The file that they are from, for the message of an error.
        name: The job.

    Raises:
        DeploymentError: There is no such job, or they don't fit together.
    """
    try:
        return definitions.resolve_job_def(name)
    except Exception as error:  # it checks what code of the user's has made
        raise DeploymentError(
            f"The job {name} of {definitions_file} can't be loaded: {type(error).__name__}: {error}"
        ) from error


def load_automation(definitions_file: str) -> list[dg.ScheduleDefinition | dg.SensorDefinition]:
    """Execute a definitions file, and return its schedules and sensors.

    Args:
        definitions_file: The absolute path of the file.

    Raises:
        DeploymentError: The file can't be executed, or they don't fit together.
    """
    definitions = load_definitions(definitions_file)
    try:
        repository = definitions.get_repository_def()
    except Exception as error:  # as above
        raise DeploymentError(
            f"The schedules and sensors of {definitions_file} can't be loaded: {type(error).__name__}: {error}"
        ) from error
    return [*repository.schedule_defs, *repository.sensor_defs]


def load_definitions(definitions_file: str) -> dg.Definitions:
    """Execute a definitions file, and return what it defines.

    Args:
        definitions_file: The absolute path of the file.

    Raises:
        DeploymentError: The file can't be executed.
    """
    path = Path(definitions_file)
    # as `dagster -f` does, so that a translator or an executor of the user's is found
    for folder in (str(path.parent), str(Path.cwd())):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        return module.defs
    except Exception as error:  # the file runs code of the user's, too, which may raise anything
        raise DeploymentError(
            f"The definitions file {definitions_file} can't be loaded: {type(error).__name__}: {error}"
        ) from error
