"""Deploying a job: its definitions file is written with its production token, and registered under the job's name."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from metaflow_pipes.compile.rendering import render
from metaflow_pipes.deployment.definitions_file import (
    PRODUCTION_TOKEN_SETTING,
    read_deployment,
)
from metaflow_pipes.deployment.lookup import default_definitions_file
from metaflow_pipes.deployment.production_tokens import first_token, resolve_token
from metaflow_pipes.deployment.registry import register
from metaflow_pipes.errors import CompileError
from metaflow_pipes.files import replacing

if TYPE_CHECKING:
    from metaflow_pipes.compile.job_model import JobModel
    from metaflow_pipes.deployment.definitions_file import Deployment
    from metaflow_pipes.deployment.production_tokens import ProductionToken, TokenOptions


@dataclass(frozen=True)
class Deployed:
    """The result of deploying a job.

    Attributes:
        deployment: The deployment.
        token: Its production token.
        problems: What went wrong beside it, each a sentence.
    """

    deployment: Deployment
    token: ProductionToken
    problems: tuple[str, ...]


def deploy(job: JobModel, definitions_file: str | os.PathLike[str] | None, tokens: TokenOptions) -> Deployed:
    """Write a job's definitions file with its production token, and let other processes find it by the job's name.

    Args:
        job: The job.
        definitions_file: The path of the file, or None for the default one.
        tokens: What the user says about production tokens.

    Raises:
        CompileError: As for `write_definitions` and `resolve_token`.
        ProductionTokenError: What stands there is another user's.
    """
    token = resolve_token(job, resolve_definitions_file(job, definitions_file), tokens)
    deployment = read_deployment(write_definitions(with_token(job, token), definitions_file))
    problems: list[str] = []
    for keep, loss in (
        (functools.partial(register, deployment), "give --definitions-file to later commands"),
        (token.store, "give --authorize when you deploy the flow as another user"),
    ):
        try:
            keep()
        except OSError as error:
            problems.append(
                f"{error.filename} can't be written ({error.strerror}). Set METAFLOW_HOME to a folder that can be, "
                f"or {loss}."
            )
    return Deployed(deployment, token, tuple(problems))


def with_token(job: JobModel, token: ProductionToken) -> JobModel:
    """The job with its production token among the settings of every step."""
    settings = {**job.flow.settings, PRODUCTION_TOKEN_SETTING: token.token}
    return replace(job, flow=replace(job.flow, settings=dict(sorted(settings.items()))))


def with_first_token(job: JobModel) -> JobModel:
    """The job with the production token of its first deployment, which is the same on each machine."""
    return with_token(job, first_token(job))


def write_definitions(job: JobModel, definitions_file: str | os.PathLike[str] | None = None) -> Path:
    """Render a job and write the definitions file, whole or not at all.

    Args:
        job: The job.
        definitions_file: The path of the file, or None for the default one.

    Returns:
        The absolute path of the file.

    Raises:
        CompileError: The file can't be written, is the flow file, or could not be imported; nothing has changed then.
    """
    path = resolve_definitions_file(job, definitions_file)
    if path.is_dir():
        raise CompileError(f"{path} is a folder. Name the file to write: {path / path.name}_dagster.py")
    if path.suffix != ".py":
        raise CompileError(f"{path} can't be a definitions file: Dagster imports it, so its name has to end in .py.")
    if path.resolve() == Path(job.flow.file).resolve():
        raise CompileError(f"The definitions file can't be the flow file itself, {path}. Choose another name.")
    text = render(job, path)
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CompileError(f"{path} can't be written: {error.strerror or error}.") from None
    return path


def resolve_definitions_file(job: JobModel, definitions_file: str | os.PathLike[str] | None) -> Path:
    """The absolute path of a definitions file; the default is `<job name, lower case>_dagster.py` here."""
    return Path(os.path.abspath(definitions_file or default_definitions_file(job.name)))
