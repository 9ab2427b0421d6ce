"""The deployment that a command or a Python call means: by its job's name, its definitions file, or its flow."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaflow_pipes.deployment.definitions_file import read_deployment
from metaflow_pipes.deployment.registry import registered, registry_folder
from metaflow_pipes.errors import DeploymentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metaflow_pipes.deployment.definitions_file import Deployment


def find_deployment(identifier: str | os.PathLike[str]) -> Deployment:
    """A deployment by the name of its job, or by the path of its definitions file.

    Of several with one name, that in the working directory is meant, or else the latest, which replaces those before it
    as with Metaflow's other schedulers.

    Raises:
        DeploymentError: There is none; the message lists those there are.
    """
    if not isinstance(identifier, str) or _is_path(identifier):
        return read_deployment(identifier)
    found = [deployment for deployment in registered() if deployment.name == identifier]
    if not found:
        raise DeploymentError(
            f"There is no deployment of the name {identifier}. Deploy the flow with `python flow.py dagster create`, "
            f"or name the definitions file in place of the job.{_known()}"
        )
    here = [deployment for deployment in found if deployment.definitions_file.parent == Path.cwd()]
    return (here or found)[0]


def _is_path(identifier: str) -> bool:
    """Whether an identifier is a path: it can't be a job's name, and looks like one or is one."""
    is_name = re.fullmatch(r"[A-Za-z0-9_]+", identifier) is not None
    return not is_name and (identifier.endswith(".py") or os.sep in identifier or Path(identifier).exists())


def deployment_of(context: Any, name: str | None = None, definitions_file: str | None = None) -> Deployment:
    """The deployment that a command of a flow means.

    That is the one in the given definitions file; else the registered one whose job has the name that `create` would
    give it now, and of several that were compiled from this flow file the latest, which replaces those before it; else
    the one in the file that `create` would write now.

    Args:
        context: The command's click context.
        name: The command's own `--name`, if it has one; that of the group counts, too.
        definitions_file: The command's `--definitions-file`.

    Raises:
        DeploymentError: There is none, it belongs to another flow, or it is not clear which one is meant.
        CompileError: The name can't be that of a job of this flow.
    """
    flow = context.obj.flow.name
    if definitions_file is not None:
        return _checked(read_deployment(definitions_file), flow)
    job = job_name_of(context, name)
    default = Path(os.path.abspath(default_definitions_file(job)))
    found = [deployment for deployment in registered() if deployment.name == job]
    if not found:
        if default.is_file():
            return _checked(read_deployment(default), flow)
        raise DeploymentError(
            f"Flow {flow} is not deployed as job {job}: there is neither an entry for it in {registry_folder()} nor "
            f"a file {default}. Deploy it with `dagster create`, or name its definitions file with --definitions-file."
            f"{_known(flow)}"
        )
    own_file = os.path.realpath(context.obj.entrypoint[-1])
    of_this_file = [deployment for deployment in found if os.path.realpath(deployment.flow_file) == own_file]
    if of_this_file:
        return _checked(of_this_file[0], flow)
    found = [deployment for deployment in found if deployment.flow_name == flow] or found
    if len(found) > 1:
        found = [deployment for deployment in found if deployment.definitions_file == default] or found
    return _checked(_only(found), flow)


def deployment_of_job(job: str, flow: str) -> Deployment | None:
    """The latest deployment of a flow as a job, or that in the file that `create` would write here, or None.

    Args:
        job: The job's name.
        flow: The flow's name.
    """
    found = [deployment for deployment in registered(flow) if deployment.name == job]
    default = Path(os.path.abspath(default_definitions_file(job)))
    if not found and default.is_file():
        found = [read_deployment(default)]
    return found[0] if found and found[0].flow_name == flow else None


def job_name_of(context: Any, name: str | None = None) -> str:
    """The name of the job that a command of a flow means: by `--name`, `@project`, or the flow's name.

    Args:
        context: The command's click context.
        name: The command's own `--name`, if it has one.

    Raises:
        CompileError: The name can't be that of a job of this flow.
    """
    from metaflow import current

    from metaflow_pipes.compile.naming import job_name

    flow = context.obj.flow.name
    deployment_name = current.get("project_flow_name") or flow
    return job_name(flow, deployment_name, chosen_name(context, name), is_project=bool(current.get("project_name")))


def chosen_name(context: Any, name: str | None = None) -> str | None:
    """The value of `--name`, before the command (`dagster --name JOB create`) or behind it.

    Raises:
        DeploymentError: It says different things in the two places.
    """
    of_group = context.parent.params.get("name") if context.parent is not None else None
    if None not in (name, of_group) and name != of_group:
        raise DeploymentError(
            f"--name is given twice, as {of_group} before and as {name} behind {context.info_name}. Give it once."
        )
    return name if of_group is None else of_group


def default_definitions_file(job: str) -> str:
    """The name of the definitions file of a job, where the user gives none."""
    return f"{job.lower()}_dagster.py"


def _checked(deployment: Deployment, flow: str) -> Deployment:
    if deployment.flow_name != flow:
        raise DeploymentError(
            f"The job {deployment.name} in {deployment.definitions_file} belongs to the flow {deployment.flow_name}, "
            f"not to {flow}. Use the flow file {deployment.flow_file}, or another --name or --definitions-file."
        )
    return deployment


def _only(deployments: Sequence[Deployment]) -> Deployment:
    if len(deployments) > 1:
        raise DeploymentError(
            f"There are {len(deployments)} deployments of the name {deployments[0].name}. Name the definitions file "
            f"of the one that you mean:{_listed(deployments)}"
        )
    return deployments[0]


def _known(flow: str | None = None) -> str:
    deployments = registered(flow)
    whose = f" of flow {flow}" if flow else ""
    return f" What is deployed{whose}:{_listed(deployments)}" if deployments else ""


def _listed(deployments: Sequence[Deployment]) -> str:
    return "".join(f"\n    {deployment.name}  {deployment.definitions_file}" for deployment in deployments)
