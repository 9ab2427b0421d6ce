"""The files that are given to a run's `IncludeFile`s: their content goes along with the flow's code.

A process of its own stores them, with the settings of the deployed flow: Metaflow reads those when it starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from metaflow_pipes.errors import DeploymentError
from metaflow_pipes.runs.run_config import parameter_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from metaflow_pipes.compile.flow_model import ParameterModel
    from metaflow_pipes.deployment.definitions_file import Deployment

# How long it may take. Metaflow's own retries of a server that can't be reached take more than an hour.
STORE_SECONDS = 300


class _File(TypedDict):
    """A file that is to be stored.

    Attributes:
        flow: The flow's name.
        datastore: The type of the datastore.
        path: The file's absolute path.
        is_text: Whether its content is text.
        encoding: The encoding of that text.
    """

    flow: str
    datastore: str
    path: str
    is_text: bool
    encoding: str


def with_stored_files(deployment: Deployment, values: Mapping[str, Any], echo: Callable[[str], Any]) -> dict[str, Any]:
    """The values of parameters, with each file stored in the datastore, where the steps of any machine read it.

    Without a remote datastore and without a code package, a file is read where the run's start step runs, as it is.

    Args:
        deployment: The deployed flow.
        values: The values by the parameters' names.
        echo: Says that a file is stored.

    Raises:
        DeploymentError: The flow has no such parameter, or a file is not here, or can't be stored; says why.
    """
    is_read_there = deployment.datastore == "local" and not deployment.is_packaged
    if is_read_there or deployment.compiled_by is None:  # a file of version 0.1 does not say whether it is text
        return dict(values)
    where = f"the {deployment.datastore} datastore {deployment.datastore_root}"
    files = {}
    for name, value in values.items():
        parameter = parameter_of(deployment, name)
        # a text that is no path is what Metaflow has stored already
        if parameter.kind == "file" and isinstance(value, str) and not value.startswith("{"):
            files[name] = _file(deployment, parameter, value, where)
            echo(f"Storing {files[name]['path']} in {where} ...")
    stored = dict(values)
    for name, answer in (_answers_of_process(deployment, files) if files else {}).items():
        if "stored" not in answer:
            raise DeploymentError(
                f"The file {files[name]['path']} of parameter {name} can't be stored in {where}: {answer['error']}. "
                "Look whether this machine reaches it, and may write there."
            )
        stored[name] = json.dumps(answer["stored"])
    return stored


def _file(deployment: Deployment, parameter: ParameterModel, value: str, where: str) -> _File:
    path = Path(value).expanduser().absolute()
    if not path.is_file():
        raise DeploymentError(
            f"Parameter {parameter.name} is {path}, and there is no such file here, whose content would be stored in "
            f"{where} for the run. A path of the machine where the run's start step runs can be given in Dagster's "
            "launchpad."
        )
    return _File(
        flow=deployment.flow_name,
        datastore=deployment.datastore,
        path=str(path),
        is_text=parameter.is_text,
        encoding=parameter.encoding,
    )


def _answers_of_process(deployment: Deployment, files: Mapping[str, _File]) -> dict[str, dict[str, Any]]:
    """For each parameter, what Metaflow takes in place of the path of its file, or why it could not be stored."""
    kind = deployment.datastore.upper()
    settings = {f"METAFLOW_DATASTORE_SYSROOT_{kind}": deployment.datastore_root, **deployment.settings}
    if deployment.datastore == "local":
        folder = deployment.settings.get("METAFLOW_DATATOOLS_SUFFIX", "data")
        settings["METAFLOW_DATATOOLS_LOCALROOT"] = str(Path(deployment.datastore_root, folder))
    try:
        finished = subprocess.run(
            [sys.executable, "-m", __name__, json.dumps(files)],
            env={**os.environ, **settings, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            timeout=STORE_SECONDS,
            check=True,
        )
        return json.loads(finished.stdout)
    except subprocess.TimeoutExpired:
        error = f"it has taken longer than {STORE_SECONDS} s"
    except (subprocess.CalledProcessError, ValueError) as failure:
        error = f"the process that stores it has failed ({failure})"
    return {name: {"error": error} for name in files}


def _store(file: _File) -> dict[str, Any]:
    """Store a file as Metaflow's other schedulers do."""
    from metaflow.includefile import CURRENT_UPLOADER
    from metaflow.plugins import DATACLIENTS

    try:
        client = next(client for client in DATACLIENTS if file["datastore"] == client.TYPE)
        stored = CURRENT_UPLOADER.store(
            file["flow"], file["path"], file["is_text"], file["encoding"], client, lambda _: None
        )
    except Exception as error:  # of any kind: storages raise their own
        return {"error": str(error) or type(error).__name__}
    return {"stored": stored}


if __name__ == "__main__":
    print(json.dumps({name: _store(file) for name, file in json.loads(sys.argv[1]).items()}))
