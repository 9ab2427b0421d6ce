"""Deployments, read from their definitions files.

Nothing here imports Dagster or runs a definitions file: the commands that ask would wait a second for it.
"""

from __future__ import annotations

import ast
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaflow_pipes.compile.flow_model import ParameterModel
from metaflow_pipes.errors import DeploymentError
from metaflow_pipes.file_format import CompilerVersion
from metaflow_pipes.locations import beside, logs_command, metadata_provider, run_folder, staleness
from metaflow_pipes.names import project_and_branch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# The setting that holds the production token; Metaflow reads it in each step.
PRODUCTION_TOKEN_SETTING = "METAFLOW_PRODUCTION_TOKEN"  # noqa: S105 - its name, not a token


# What makes the job in a generated file.
JOB_CALL = "dg.job"
# The arguments of the flow that are read otherwise, or not at all.
_NO_LITERALS = {
    "automation",
    "compiled_by",
    "definitions_file",
    "parameters",
    "partitions",
    "step_env",
    "steps",
    "translator",
}
# What a positional argument is called in the calls of a generated file.
_POSITIONAL = {
    "CodePackage": ("url",),
    "CompilerVersion": ("version",),
    "MetaflowParameter": ("name", "kind"),
    "MetaflowStep": ("name", "upstream"),
    "MetaflowCheck": ("name",),
}


@dataclass(frozen=True)
class Deployment:
    """A flow as a definitions file deploys it.

    Attributes:
        definitions_file: The absolute path of the definitions file.
        name: The Dagster job's name.
        flow_name: The flow's name.
        flow_file: The absolute path of the flow file.
        working_directory: The absolute path of the folder where the steps run.
        fingerprint: `sha256:` and the digest of the flow file when it was compiled.
        user: Who deployed it.
        production_token: The production token, or None if it was compiled without one.
        namespace: The Metaflow namespace of the steps, if it is not that of the production token.
        deployment_name: With `@project`, that of project, branch and flow; else None.
        project_name: The name of the `@project`, or None.
        branch_name: The branch of the `@project`, as `current.branch_name`: `user.ann`, `test.x`, `prod`, `prod.x`.
        parameters: The flow's parameters.
        partition_parameters: Those that the key of a run's partition fills; none if the job has no partitions.
        takes_partition_range: Whether one run can make several partitions.
        is_packaged: Whether its code package is stored, so that its runs need no flow file.
        steps: The steps, each after those whose tasks it takes.
        op_names: The name of each step's op.
        items_of: For each step that takes all items of a foreach, the step of that; empty in files of version 0.1.
        start_step: The step whose op takes the parameters as its config.
        configs: The values of the `Config`s, as Metaflow's runner hands them to its tasks.
        settings: `METAFLOW_*` variables of every step.
        datastore: The type of the datastore: `local`, `s3`, ...
        datastore_root: The root of the datastore: an absolute path or a URL.
        top_level_args: Metaflow's options before its command.
        tags: Metaflow tags of each run.
        compiled_by: The version of metaflow-pipes that has written the file; None for release 0.1.
    """

    definitions_file: Path
    name: str
    flow_name: str
    flow_file: Path
    working_directory: Path
    fingerprint: str
    user: str
    production_token: str | None
    namespace: str | None
    deployment_name: str | None
    project_name: str | None
    branch_name: str | None
    parameters: tuple[ParameterModel, ...]
    steps: tuple[str, ...]
    op_names: Mapping[str, str]
    items_of: Mapping[str, str]
    start_step: str
    configs: Mapping[str, Any]
    settings: Mapping[str, str]
    datastore: str
    datastore_root: str
    top_level_args: tuple[str, ...]
    tags: tuple[str, ...]
    compiled_by: CompilerVersion | None = None
    partition_parameters: tuple[str, ...] = ()
    takes_partition_range: bool = False
    is_packaged: bool = False

    @property
    def start_op(self) -> str:
        """The op whose config holds the parameters."""
        return self.op_names[self.start_step]

    @property
    def loop_of_op(self) -> dict[str, str | None]:
        """The op of each step, with that of the foreach whose items it takes all of, or None."""
        ops, loops = self.op_names, self.items_of
        return {op: ops[loops[step]] if step in loops else None for step, op in ops.items()}

    @property
    def is_production(self) -> bool:
        """Whether it was compiled with `--production`, as `current.is_production`."""
        return self.branch_name is not None and self.branch_name.split(".")[0] == "prod"

    @property
    def metadata_provider(self) -> str | None:
        """The metadata provider of its runs, as `metaflow.metadata` takes it: `local@/folder`; None if unknown."""
        return metadata_provider(
            self.working_directory,
            datastore=self.datastore,
            datastore_root=self.datastore_root,
            settings=self.settings,
            top_level_args=self.top_level_args,
        )

    def staleness(self) -> str | None:
        """The reason why it no longer fits the flow file, or None if it does, or does not need that."""
        if self.is_packaged:
            return None
        return staleness(
            self.flow_name, self.flow_file, self.fingerprint, self.definitions_file, self.working_directory
        )

    def logs_command(self, task: str) -> str:
        """The shell command that shows the logs of a task or step, `run_id/step`, in the working directory."""
        return logs_command(
            task,
            self.flow_file,
            self.working_directory,
            datastore=self.datastore,
            datastore_root=self.datastore_root,
            settings=self.settings,
            top_level_args=self.top_level_args,
        )


def read_deployment(definitions_file: str | os.PathLike[str]) -> Deployment:
    """Read a generated definitions file.

    Args:
        definitions_file: Its path.

    Raises:
        DeploymentError: There is no such file, metaflow-pipes did not write it, or another version of it did.
    """
    path = Path(os.path.abspath(definitions_file))
    calls = _calls(path)
    try:
        flow, job = calls["MetaflowFlow"], calls[JOB_CALL]
    except KeyError:
        raise DeploymentError(
            f"{path} is no definitions file of metaflow-pipes. Name one that `python flow.py dagster create` has "
            "written."
        ) from None
    try:
        return _deployment(path, flow, job)
    except (KeyError, StopIteration, TypeError, ValueError) as error:
        raise DeploymentError(
            f"{path} can't be understood ({type(error).__name__}: {error}): it was edited, or written by another "
            "version of metaflow-pipes. Compile the flow again with `dagster create`."
        ) from None


def _calls(path: Path) -> dict[str, ast.Call]:
    """The calls that make the flow and the job of a definitions file, by the names of what they call."""
    try:
        module = ast.parse(path.read_bytes())
    except OSError as error:
        raise DeploymentError(
            f"The definitions file {path} can't be read: {error.strerror or error}. Write it with `python flow.py "
            "dagster create`, or name another one."
        ) from None
    except (SyntaxError, ValueError) as error:
        raise DeploymentError(
            f"{path} is no Python file ({error}), so it can't be a definitions file. Write one with `python flow.py "
            "dagster create`."
        ) from None
    calls: dict[str, ast.Call] = {}
    for statement in module.body:
        candidates = (
            [statement.value] if isinstance(statement, ast.Assign) else getattr(statement, "decorator_list", [])
        )
        for call in candidates:
            if isinstance(call, ast.Call):
                name = ast.unparse(call.func)
                # since format 3 the job is made of a graph
                calls[JOB_CALL if name.endswith(".to_job") else name] = call
    return calls


def _deployment(path: Path, flow_call: ast.Call, job_call: ast.Call) -> Deployment:
    flow, name = _arguments(flow_call), _value(_arguments(job_call)["name"])
    compiled_by = _compiled_by(path, flow["compiled_by"]) if "compiled_by" in flow else None
    values = {key: _value(node) for key, node in flow.items() if key not in _NO_LITERALS}
    steps = [_record(call) for call in _elements(flow["steps"])]
    flow_file = beside(path, values["file"])
    settings = values.get("settings", {})
    project_name, branch_name = project_and_branch(values.get("deployment"))
    root = values["datastore_root"]
    dimensions, partition_parameters = _partitions(flow.get("partitions"))
    return Deployment(
        definitions_file=path,
        name=name,
        flow_name=values["name"],
        flow_file=flow_file,
        working_directory=run_folder(path, values["working_directory"], flow_file),
        fingerprint=values["fingerprint"],
        user=values["user"],
        production_token=settings.get(PRODUCTION_TOKEN_SETTING),
        namespace=values.get("namespace"),
        deployment_name=values.get("deployment"),
        project_name=project_name,
        branch_name=branch_name,
        parameters=tuple(_parameter(_record(call)) for call in _elements(flow.get("parameters"))),
        steps=tuple(step["name"] for step in steps),
        op_names={step["name"]: step.get("op", step["name"]) for step in steps},
        items_of={step["name"]: step["items_of"] for step in steps if "items_of" in step},
        start_step=next(step["name"] for step in steps if "upstream" not in step),
        configs=values.get("configs", {}),
        settings=settings,
        datastore=values["datastore"],
        datastore_root=str(beside(path, root)) if values["datastore"] == "local" else root,
        top_level_args=tuple(values["top_level_args"]),
        tags=tuple(values.get("tags", ())),
        compiled_by=compiled_by,
        partition_parameters=partition_parameters,
        takes_partition_range=len(partition_parameters) > len(dimensions),
        is_packaged="package" in values,
    )


def _compiled_by(path: Path, call: ast.expr) -> CompilerVersion:
    """The version that wrote a file.

    Raises:
        DeploymentError: The file is of a format that the installed version does not know.
    """
    record = _record(call)
    try:
        return CompilerVersion(record["version"], record["format"])
    except DeploymentError as error:
        raise DeploymentError(f"{path} can't be used. {error}") from None


def _partitions(call: ast.expr | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The parameters of the dimensions of a flow's partitions, and all those that a key fills."""
    if not isinstance(call, ast.Call):
        return (), ()
    dimensions = tuple(_value(call.args[1]))
    return dimensions, (*dimensions, *([_value(end)] if (end := _arguments(call).get("range_end")) else []))


def _parameter(arguments: Mapping[str, Any]) -> ParameterModel:
    return ParameterModel(**arguments, has_default="default" in arguments)


def _elements(node: ast.expr | None) -> Sequence[ast.expr]:
    return node.elts if isinstance(node, ast.List) else []


def _arguments(call: ast.Call) -> dict[str, ast.expr]:
    return {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg is not None}


def _record(call: ast.expr) -> dict[str, Any]:
    """The arguments of a step, a check or a parameter, by their names."""
    if not isinstance(call, ast.Call):
        raise TypeError(f"line {call.lineno} is no call")
    names = _POSITIONAL[ast.unparse(call.func)]
    nodes = {**dict(zip(names, call.args, strict=False)), **_arguments(call)}
    return {name: _value(node) for name, node in nodes.items()}


def _value(node: ast.expr) -> Any:
    """The value of a literal, as `metaflow_pipes.compile.rendering` writes them."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "float":
        return float(_value(node.args[0]))
    if isinstance(node, ast.Call) and ast.unparse(node.func) in _POSITIONAL:
        return _record(node)
    if isinstance(node, ast.Dict):
        return {
            _value(key): _value(value) for key, value in zip(node.keys, node.values, strict=True) if key is not None
        }
    if isinstance(node, ast.List):
        return [_value(element) for element in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(element) for element in node.elts)
    return ast.literal_eval(node)
