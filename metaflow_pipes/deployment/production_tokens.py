"""Production tokens: who may change a deployment, and the Metaflow namespace of its runs.

The rules are those of Metaflow's own schedulers (`metaflow.plugins.argo.argo_workflows_cli.resolve_token`), and so
is the place where tokens are kept. A token is a name that Metaflow shows to everybody, and no secret.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metaflow.plugins.aws.step_functions import production_token

from metaflow_pipes.compile.settings import username
from metaflow_pipes.deployment.definitions_file import read_deployment
from metaflow_pipes.deployment.registry import registered
from metaflow_pipes.errors import CompileError, DeploymentError, ProductionTokenError
from metaflow_pipes.names import project_and_branch

if TYPE_CHECKING:
    from pathlib import Path

    from metaflow_pipes.compile.job_model import JobModel
    from metaflow_pipes.deployment.definitions_file import Deployment

# What tells a token's namespace from a user's.
NAMESPACE = "production:"
# How many characters of the digest of project and branch begin the tokens of a @project.
PROJECT_DIGEST_LENGTH = 16


@dataclass(frozen=True)
class TokenOptions:
    """The user's options about production tokens.

    Attributes:
        authorize: The token of the deployment that is to be replaced.
        generate_new_token: Whether to move the flow to a new token.
        new_token: The token to move the flow to.

    Raises:
        CompileError: They contradict each other, or can't be used.
    """

    authorize: str | None = None
    generate_new_token: bool = False
    new_token: str | None = None

    def __post_init__(self) -> None:
        if self.generate_new_token and self.new_token is not None:
            raise CompileError("--generate-new-token and --new-token can't be used together. Give one of them.")
        if self.new_token is not None and re.fullmatch(r"[!-~]+", _without_namespace(self.new_token)) is None:
            raise CompileError(
                f"--new-token is {self.new_token!r}. A production token consists of ASCII letters, digits and "
                "punctuation, without spaces."
            )


@dataclass(frozen=True)
class ProductionToken:
    """The token of a deployment.

    Attributes:
        token: The token.
        prefix: The name under which Metaflow keeps it.
        is_new: Whether the deployment that it replaces, if any, had another one.
    """

    token: str
    prefix: str
    is_new: bool

    @property
    def namespace(self) -> str:
        """The Metaflow namespace of the runs."""
        return f"{NAMESPACE}{self.token}"

    def store(self) -> None:
        """Keep it in Metaflow's folder: who has used it once need not give it again.

        Raises:
            OSError: The folder can't be written.
        """
        try:
            production_token.store_token(self.prefix, self.token)
        except ValueError as error:
            raise OSError(0, f"it holds no JSON: {error}", self.prefix) from None


def resolve_token(job: JobModel, definitions_file: Path, options: TokenOptions) -> ProductionToken:
    """The production token of a job that is about to be deployed. Changes nothing.

    Args:
        job: The job.
        definitions_file: The absolute path of the file that is about to be written.
        options: What the user says about tokens.

    Raises:
        ProductionTokenError: What stands there was deployed by another user, with a token that the caller lacks.
        CompileError: The flow can't have the token that the user asks for.
    """
    previous = _previous(job.name, definitions_file)
    for deployment in previous:
        check_authorized(deployment, options.authorize, job.flow.user, command="create", purpose="to replace it")
    before = next((deployment.production_token for deployment in previous if deployment.name == job.name), None)
    prefix = _prefix(job.name, job.flow.deployment_name if job.flow.is_project else None)
    token = _chosen(job, options, prefix, before)
    return ProductionToken(token, prefix, is_new=token != before)


def first_token(job: JobModel) -> ProductionToken:
    """The production token of a job that nobody has deployed before; its name says which, so it is always the same."""
    prefix = _prefix(job.name, job.flow.deployment_name if job.flow.is_project else None)
    token = production_token.new_token(prefix, None)
    assert token is not None
    return ProductionToken(token, prefix, is_new=True)


def check_authorized(
    deployment: Deployment, authorize: str | None, user: str | None = None, *, command: str, purpose: str
) -> None:
    """Refuse a change of a deployment by who neither made it nor has its production token.

    Args:
        deployment: The deployment.
        authorize: The token that the user gives; by default, that which Metaflow has kept.
        user: Who changes it; by default, Metaflow's user.
        command: The command that changes it.
        purpose: What for, as in `to delete it`.

    Raises:
        ProductionTokenError: It was made by another user, with another token.
    """
    if deployment.production_token is None or deployment.user == (user or username()):
        return
    given = _kept(_prefix(deployment.name, deployment.deployment_name)) if authorize is None else authorize
    if given is None or _without_namespace(given) != deployment.production_token:
        raise ProductionTokenError(
            f"The job {deployment.name} in {deployment.definitions_file} was deployed by the user {deployment.user}. "
            f"Ask them for its production token, and use it {purpose}: {command} --authorize TOKEN"
        )


def _previous(name: str, definitions_file: Path) -> list[Deployment]:
    """The deployments that a job replaces: that in its file, and its namesake if that is another job or none."""
    previous: list[Deployment] = []
    with contextlib.suppress(DeploymentError):
        previous.append(read_deployment(definitions_file))
    if not previous or previous[0].name != name:
        previous += [deployment for deployment in registered() if deployment.name == name][:1]
    return previous


def _chosen(job: JobModel, options: TokenOptions, prefix: str, before: str | None) -> str:
    if options.new_token is not None:
        if job.flow.is_project:
            raise CompileError(
                f"--new-token can't be used with flow *{job.flow.name}*, because it has @project: the tokens of a "
                "project begin alike. Use --generate-new-token to make a new one."
            )
        return _without_namespace(options.new_token)
    if before is not None and not options.generate_new_token:
        return before
    token = production_token.new_token(prefix, before)
    if token is None:
        raise CompileError(
            f"--generate-new-token can't follow the token {before} of the job {job.name}, which was given by "
            "--new-token. Use --new-token again."
        )
    return token


def _prefix(name: str, deployment_name: str | None) -> str:
    """The beginning of a job's tokens, as `resolve_workflow_name_v2` of Metaflow's Argo plugin makes it.

    Args:
        name: The job's name.
        deployment_name: With `@project`, that of project, branch and flow.
    """
    project, branch = project_and_branch(deployment_name)
    if project is None:
        return name.lower()
    digest = hashlib.sha1(f"{project}.{branch}".encode(), usedforsecurity=False).digest()
    return f"mfprj-{base64.b32encode(digest).decode()[:PROJECT_DIGEST_LENGTH]}".lower()


def _kept(prefix: str) -> str | None:
    try:
        return production_token.load_token(prefix)
    except (OSError, ValueError):
        return None


def _without_namespace(token: str) -> str:
    return token.removeprefix(NAMESPACE)
