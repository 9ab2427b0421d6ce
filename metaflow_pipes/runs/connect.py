"""The choice of the Dagster that a command or a Python object speaks to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from metaflow_pipes.names import HOME_VARIABLE, URL_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from metaflow_pipes.runs.service import DagsterService

# The token that Dagster+ asks for, as in its own tools.
TOKEN_VARIABLE = "DAGSTER_CLOUD_API_TOKEN"  # noqa: S105 - its name


def connect(url: str | None = None, environment: Mapping[str, str] | None = None) -> DagsterService:
    """The Dagster to speak to: a webserver's if one is named, else the instance on this machine.

    Args:
        url: The webserver's address; None for that of `DAGSTER_WEBSERVER_URL`, if it is set.
        environment: The variables that tell; by default those of this process.

    Raises:
        DeploymentError: The address is none, or the instance can't be opened.
    """
    environment = os.environ if environment is None else environment
    url = url or environment.get(URL_VARIABLE)
    if url:
        from metaflow_pipes.runs.webserver import Webserver

        return Webserver(url, environment.get(TOKEN_VARIABLE))
    from metaflow_pipes.runs.local import LocalInstance

    return LocalInstance(environment.get(HOME_VARIABLE))
