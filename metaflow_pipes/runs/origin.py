"""The run that a resumed run goes on from."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metaflow import Flow, Run
from metaflow.datastore import FlowDataStore
from metaflow.datastore.exceptions import DataException
from metaflow.exception import MetaflowNamespaceMismatch, MetaflowNotFound
from metaflow.plugins import DATASTORES
from metaflow.util import get_latest_run_id

from metaflow_pipes.errors import DeploymentError
from metaflow_pipes.names import (
    ORIGIN_RUN_ID_TAG,
    OVERRIDDEN_PARAMETERS_TAG,
    RUN_ID_TAG,
    STEP_TO_RERUN_TAG,
    TRIGGER_TAGS,
)
from metaflow_pipes.runs.partitions import kept_tags
from metaflow_pipes.runs.service import find_run, runs_of_flow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from metaflow_pipes.compile.flow_model import ParameterModel
    from metaflow_pipes.deployment.definitions_file import Deployment
    from metaflow_pipes.runs.service import DagsterService


@dataclass(frozen=True)
class Origin:
    """A run of a flow, on Dagster or by Metaflow's own runner, that another one goes on from.

    Attributes:
        run_id: The Metaflow run.
        artifacts: The datastore of the task that holds its parameters, by the names of the flow's attributes.
        attributes: The parameters' attributes as the flow itself has them, for a definitions file of version 0.1, which
            does not say.
    """

    run_id: str
    artifacts: Any
    attributes: Mapping[str, str]

    @classmethod
    def find(cls, state: Any, deployment: Deployment, service: DagsterService, run_id: str | None) -> Origin:
        """The run that an id means.

        Args:
            state: Metaflow's `CliState`.
            deployment: The deployed flow.
            service: Where its runs on Dagster are.
            run_id: A Metaflow run id, or what `find_run` takes; None for the newest run, whichever side began it.

        Raises:
            DeploymentError: There is no such run.
            MetaflowException: Metaflow's metadata service can't be asked for its newest run.
        """
        flow = deployment.flow_name
        if run_id is None:
            run_id = _latest_run_id(state, deployment, service)
        parameters = _parameters_task(deployment, run_id)
        if parameters is None:
            where = f"in the {deployment.datastore} datastore {deployment.datastore_root}"
            try:
                run_id = find_run(service, flow, run_id).metaflow_run_id
            except DeploymentError as error:
                raise DeploymentError(f"There is no run {run_id} of flow {flow} {where}. {error}") from None
            parameters = _parameters_task(deployment, run_id)
            if parameters is None:
                raise DeploymentError(
                    f"Run {run_id} of flow {flow} has stored nothing {where} that could be resumed. Launch it anew by "
                    "`trigger`, or name another run by --origin-run-id."
                )
        # in a process that does not import the flow, Metaflow's stand-in for it has no parameters
        live = {p.name: attribute for attribute, p in state.flow._get_parameters() if not p.IS_CONFIG_PARAMETER}
        return cls(run_id, parameters, {**_attributes_in(deployment.flow_file), **live})

    def parameters(self, deployment: Deployment) -> dict[str, Any]:
        """The values of its parameters as the run config shows them, as far as that can.

        Raises:
            DeploymentError: Version 0.1 compiled the flow, and it is not known where the run has stored a parameter.
        """
        values = {}
        for parameter in deployment.parameters:
            attribute = self._attribute(deployment, parameter)
            if attribute not in self.artifacts:
                continue
            is_file = parameter.kind == "file"
            values[parameter.name] = self._placeholder if is_file else self._shown(parameter, self.artifacts[attribute])
        return values

    def _attribute(self, deployment: Deployment, parameter: ParameterModel) -> str:
        """The flow's attribute that holds a parameter's value, also for a definitions file of version 0.1."""
        attribute = parameter.attribute or parameter.usual_attribute
        if deployment.compiled_by is not None:
            return attribute
        if parameter.name not in self.attributes and attribute not in self.artifacts:
            raise DeploymentError(
                f"{deployment.definitions_file} does not say which attribute of flow {deployment.flow_name} is its "
                f"parameter {parameter.name}, so that run {self.run_id} can't be asked for its value. Compile the flow "
                "again with `dagster create`."
            )
        return self.attributes.get(parameter.name, attribute)

    def tags(self, service: DagsterService, step_to_rerun: str | None, overridden: Sequence[str]) -> dict[str, str]:
        """The tags that make a Dagster run go on from this one. It has the same partition, and the same triggers.

        Args:
            service: Where its runs on Dagster are.
            step_to_rerun: The step that runs again, with all below it; None for those only that failed.
            overridden: The parameters whose values are not this run's, or that it does not have.
        """
        tags = {ORIGIN_RUN_ID_TAG: self.run_id}
        for run in service.runs({RUN_ID_TAG: self.run_id}, limit=1):
            tags.update({tag: value for tag, value in run.tags.items() if tag in TRIGGER_TAGS})
            tags.update(kept_tags(run.tags))
        if step_to_rerun is not None:
            tags[STEP_TO_RERUN_TAG] = step_to_rerun
        if overridden:
            tags[OVERRIDDEN_PARAMETERS_TAG] = json.dumps(sorted(overridden))
        return tags

    def _shown(self, parameter: ParameterModel, value: Any) -> Any:
        """A value that Dagster's config takes; the run reads what the origin has stored."""
        types = {"str": str, "int": int, "float": (int, float), "bool": bool}
        expected = types.get(parameter.kind)
        if value is None:
            return None
        if parameter.multiple or parameter.separator is not None:
            return list(value) if isinstance(value, (list, tuple)) else value
        if parameter.kind == "json":
            return value if _is_json(value) else str(value)
        if expected is None or not isinstance(value, expected):
            return self._placeholder
        return value

    @property
    def _placeholder(self) -> str:
        return f"{{as in run {self.run_id}}}"


def _parameters_task(deployment: Deployment, run_id: str) -> Any:
    """The datastore of a run's `_parameters` task, or None if the deployment's datastore has no such run."""
    storage = next(storage for storage in DATASTORES if deployment.datastore == storage.TYPE)
    datastore = FlowDataStore(deployment.flow_name, storage_impl=storage, ds_root=deployment.datastore_root)
    try:
        # of another attempt there is none: without it, three files of each that could be would be asked for
        tasks = datastore.get_task_datastores(run_id, steps=["_parameters"], attempt=0)
    except DataException:
        return None
    # a start step that was executed again has stored others, as `step_wrapper.step.origin` takes them
    return max(tasks, key=_begun_at, default=None)


def _begun_at(task: Any) -> float:
    """The time when a task was begun, in seconds since 1970."""
    name = task.METADATA_ATTEMPT_SUFFIX
    return task.load_metadata([name])[name]["time"]


def _latest_run_id(state: Any, deployment: Deployment, service: DagsterService) -> str:
    """The id of the flow's newest run, by its creation: of those on Dagster and those by Metaflow's own runner."""
    found = [
        (run.created_at or 0.0, run.metaflow_run_id) for run in runs_of_flow(service, deployment.flow_name, limit=1)
    ]
    found += _latest_of_metaflow(state, deployment)
    if not found:
        raise DeploymentError(
            f"Flow {deployment.flow_name} has no run on {service}, and Metaflow knows of no latest one here. Name the "
            "run to resume by --origin-run-id."
        )
    return max(found)[1]


def _latest_of_metaflow(state: Any, deployment: Deployment) -> list[tuple[float, str]]:
    """The start of Metaflow's newest run of the flow, in seconds since 1970, and its id; empty if it knows of none.

    With local metadata that is the one that Metaflow's own `resume` means. With a metadata service, which a team
    shares, it is one of the user's namespace.
    """
    flow, provider = deployment.flow_name, deployment.metadata_provider or state.metadata.metadata_str()
    try:
        if provider.startswith("local@"):
            run_id = get_latest_run_id(state.echo, flow)
            run = run_id and Run(f"{flow}/{run_id}", _namespace_check=False, _current_metadata=provider)
        else:
            run = Flow(flow, _current_metadata=provider).latest_run
    except (MetaflowNotFound, MetaflowNamespaceMismatch):
        return []
    return [(run.created_at.timestamp(), run.id)] if run else []


def _attributes_in(flow_file: Path) -> dict[str, str]:
    """The attributes of the parameters that a flow file defines itself, as in `rate = Parameter("learning-rate")`."""
    try:
        module = ast.parse(flow_file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return {}
    found: dict[str, str] = {}
    for statement in ast.walk(module):
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call):
            target, call = statement.targets[0], statement.value
            named = [keyword.value for keyword in call.keywords if keyword.arg == "name"]
            name = [*call.args[:1], *named]
            kind = ast.unparse(call.func).rpartition(".")[2]
            if kind in ("Parameter", "IncludeFile") and name and isinstance(name[0], ast.Constant):
                found[str(name[0].value)] = ast.unparse(target)
    return found


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
