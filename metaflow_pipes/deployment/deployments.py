"""What is deployed: read from the definitions files themselves, and found by the job's name.

Nothing here imports Dagster or runs a definitions file: the commands that ask would wait a second for it.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaflow_pipes.errors import DeploymentError
from metaflow_pipes.files import replacing
from metaflow_pipes.locations import beside, run_folder, staleness
from metaflow_pipes.model import ParameterModel

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# The setting that holds the production token; Metaflow reads it in each step.
PRODUCTION_TOKEN_SETTING = "METAFLOW_PRODUCTION_TOKEN"  # noqa: S105 - its name, not a token

# Where the entries of the registry are, in Metaflow's own folder. Metaflow keeps production tokens there in files that
# are named after jobs, so no job can have this name.
REGISTRY = "dagster-deployments"
# How many hexadecimal digits tell the paths of definitions files apart.
ENTRY_NAME_LENGTH = 32

# What a positional argument is called in the calls of a generated file.
_POSITIONAL = {"MetaflowStep": ("name", "upstream"), "MetaflowParameter": ("name", "kind")}


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
        steps: The steps, each after those whose tasks it takes.
        op_names: The name of each step's op.
        start_step: The step whose op takes the parameters as its config.
        configs: The values of the `Config`s, as Metaflow's runner hands them to its tasks.
        settings: `METAFLOW_*` variables of every step.
        datastore: The type of the datastore: `local`, `s3`, ...
        datastore_root: The root of the datastore: an absolute path or a URL.
        top_level_args: Metaflow's options before its command.
        tags: Metaflow tags of each run.
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
    start_step: str
    configs: Mapping[str, Any]
    settings: Mapping[str, str]
    datastore: str
    datastore_root: str
    top_level_args: tuple[str, ...]
    tags: tuple[str, ...]

    @property
    def start_op(self) -> str:
        """The op whose config holds the parameters."""
        return self.op_names[self.start_step]

    @property
    def is_production(self) -> bool:
        """Whether it was compiled with `--production`, as `current.is_production`."""
        return self.branch_name is not None and self.branch_name.split(".")[0] == "prod"

    @property
    def metadata_provider(self) -> str | None:
        """Where Metaflow's client finds its runs, as `metaflow.metadata` takes it: `local@/folder`; None if unknown."""
        root = Path(self.datastore_root)
        if "--metadata=local" in self.top_level_args and self.datastore == "local" and root.name == ".metaflow":
            return f"local@{Path(self.datastore_root).parent}"
        url = self.settings.get("METAFLOW_SERVICE_URL")
        return f"service@{url}" if "--metadata=service" in self.top_level_args and url else None

    def staleness(self) -> str | None:
        """Why the definitions file no longer fits the flow file, or None if it does."""
        return staleness(
            self.flow_name, self.flow_file, self.fingerprint, self.definitions_file, self.working_directory
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
        flow, job = calls["MetaflowFlow"], calls["dg.job"]
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
                calls[ast.unparse(call.func)] = call
    return calls


def _deployment(path: Path, flow_call: ast.Call, job_call: ast.Call) -> Deployment:
    flow, name = _arguments(flow_call), _value(_arguments(job_call)["name"])
    values = {
        key: _value(node)
        for key, node in flow.items()
        if key not in ("definitions_file", "steps", "parameters", "translator")
    }
    steps = [_record(call) for call in _elements(flow["steps"])]
    flow_file = beside(path, values["file"])
    settings = values.get("settings", {})
    project_name, branch_name = project_and_branch(values.get("deployment"))
    root = values["datastore_root"]
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
        start_step=next(step["name"] for step in steps if "upstream" not in step),
        configs=values.get("configs", {}),
        settings=settings,
        datastore=values["datastore"],
        datastore_root=str(beside(path, root)) if values["datastore"] == "local" else root,
        top_level_args=tuple(values["top_level_args"]),
        tags=tuple(values.get("tags", ())),
    )


def project_and_branch(deployment_name: str | None) -> tuple[str | None, str | None]:
    """Project and branch of `project.branch.flow`; only the branch, with a user's name in it, can hold more dots.

    Args:
        deployment_name: With `@project`, that of project, branch and flow; else None.
    """
    if deployment_name is None:
        return None, None
    project, _, rest = deployment_name.partition(".")
    return project, rest.rpartition(".")[0]


def _parameter(arguments: Mapping[str, Any]) -> ParameterModel:
    return ParameterModel(**arguments, has_default="default" in arguments)


def _elements(node: ast.expr | None) -> Sequence[ast.expr]:
    return node.elts if isinstance(node, ast.List) else []


def _arguments(call: ast.Call) -> dict[str, ast.expr]:
    return {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg is not None}


def _record(call: ast.expr) -> dict[str, Any]:
    """The arguments of a step or a parameter, by their names."""
    if not isinstance(call, ast.Call):
        raise TypeError(f"line {call.lineno} is no call")
    names = _POSITIONAL[ast.unparse(call.func)]
    nodes = {**dict(zip(names, call.args, strict=False)), **_arguments(call)}
    return {name: _value(node) for name, node in nodes.items()}


def _value(node: ast.expr) -> Any:
    """The value of a literal, as `metaflow_pipes.rendering` writes them."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "float":
        return float(_value(node.args[0]))
    if isinstance(node, ast.Dict):
        return {
            _value(key): _value(value) for key, value in zip(node.keys, node.values, strict=True) if key is not None
        }
    if isinstance(node, ast.List):
        return [_value(element) for element in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(element) for element in node.elts)
    return ast.literal_eval(node)


# the registry: one small file for each definitions file, so that two processes never write the same one


def register(deployment: Deployment) -> None:
    """Let other processes find a deployment by its name.

    Raises:
        OSError: Metaflow's folder can't be written.
    """
    entry = _entry(deployment.definitions_file)
    entry.parent.mkdir(parents=True, exist_ok=True)
    with replacing(entry) as temporary:
        temporary.write_text(json.dumps({"definitions_file": str(deployment.definitions_file)}) + "\n")


def forget(definitions_file: str | os.PathLike[str]) -> None:
    """Remove a definitions file from the registry; one that isn't there doesn't matter.

    Raises:
        OSError: Metaflow's folder can't be written.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        _entry(Path(os.path.abspath(definitions_file))).unlink()


def delete(deployment: Deployment) -> None:
    """Remove a deployment: its definitions file and its entry.

    Raises:
        DeploymentError: One of them can't be removed.
    """
    try:
        deployment.definitions_file.unlink(missing_ok=True)
        forget(deployment.definitions_file)
    except OSError as error:
        raise DeploymentError(
            f"The deployment {deployment.name} can't be deleted: {error.filename}: {error.strerror}. Remove the file "
            "yourself, with the rights to do so."
        ) from None


def registered(flow_name: str | None = None) -> list[Deployment]:
    """The registered deployments, the latest first; those that are gone or can't be read are left out.

    Args:
        flow_name: Only those of this flow.
    """
    entries: list[tuple[int, Deployment]] = []
    for entry in _registry().glob("*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, DeploymentError):
            deployment = read_deployment(json.loads(entry.read_text())["definitions_file"])
            entries.append((entry.stat().st_mtime_ns, deployment))
    entries.sort(key=lambda pair: (-pair[0], str(pair[1].definitions_file)))
    return [deployment for _, deployment in entries if flow_name in (None, deployment.flow_name)]


def find_deployment(identifier: str | os.PathLike[str]) -> Deployment:
    """A deployment by the name of its job, or by the path of its definitions file.

    Of several with one name, that in the working directory is meant, or else the latest, which replaces those before it
    as with Metaflow's other schedulers.

    Raises:
        DeploymentError: There is none; the message lists those there are.
    """
    if not isinstance(identifier, str) or re.fullmatch(r"[A-Za-z0-9_]+", identifier) is None:
        return read_deployment(identifier)
    found = [deployment for deployment in registered() if deployment.name == identifier]
    if not found:
        raise DeploymentError(
            f"There is no deployment of the name {identifier}. Deploy the flow with `python flow.py dagster create`, "
            f"or name the definitions file in place of the job.{_known()}"
        )
    here = [deployment for deployment in found if deployment.definitions_file.parent == Path.cwd()]
    return (here or found)[0]


def deployment_of(context: Any, name: str | None = None, definitions_file: str | None = None) -> Deployment:
    """The deployment that a command of a flow means.

    That is the one in the given definitions file; else the registered one whose job has the name that `create` would
    give it now; else the one in the file that `create` would write now.

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
            f"Flow {flow} is not deployed as job {job}: there is neither an entry for it in {_registry()} nor a file "
            f"{default}. Deploy it with `dagster create`, or name its definitions file with --definitions-file."
            f"{_known(flow)}"
        )
    own_file = os.path.realpath(context.obj.entrypoint[-1])
    of_this_file = [deployment for deployment in found if os.path.realpath(deployment.flow_file) == own_file]
    found = of_this_file or [deployment for deployment in found if deployment.flow_name == flow] or found
    if len(found) > 1:
        found = [deployment for deployment in found if deployment.definitions_file == default] or found
    return _checked(_only(found), flow)


def job_name_of(context: Any, name: str | None = None) -> str:
    """The name of the job that a command of a flow means: by `--name`, `@project`, or the flow's name.

    Args:
        context: The command's click context.
        name: The command's own `--name`, if it has one.

    Raises:
        CompileError: The name can't be that of a job of this flow.
    """
    from metaflow import current

    from metaflow_pipes.lowering import job_name

    flow = context.obj.flow.name
    deployment_name = current.get("project_flow_name") or flow
    return job_name(flow, deployment_name, chosen_name(context, name), is_project=bool(current.get("project_name")))


def chosen_name(context: Any, name: str | None = None) -> str | None:
    """What `--name` says, before the command (`dagster --name JOB create`) or behind it.

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


def _registry() -> Path:
    return Path(os.environ.get("METAFLOW_HOME", "~/.metaflowconfig")).expanduser() / REGISTRY


def _entry(definitions_file: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(definitions_file)).hexdigest()
    return _registry() / f"{digest[:ENTRY_NAME_LENGTH]}.json"
