"""The options of `create`: each is checked here, and what it names is imported."""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING

from metaflow_pipes.compile.model import ExecutorModel, FromRunEnvironment, ImportModel
from metaflow_pipes.errors import CompileError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from metaflow_pipes.compile.model import JobOptions


# The levels of `logging` at which records of the steps can start to be sent to Dagster.
LOG_LEVELS = ("debug", "info", "warning", "error", "critical", "off")


_IMPORT_PATH = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<attribute>[A-Za-z_]\w*)")


def executor_of(options: JobOptions) -> ExecutorModel:
    """The executor that the options name.

    Raises:
        CompileError: There is none of that name, or it does not take `max_workers`.
    """
    if options.max_workers is not None and options.max_workers < 1:
        raise CompileError(f"--max-workers is {options.max_workers}, but at least one step must be able to run.")
    if options.executor in ("threads", "multiprocess"):
        limit = "" if options.max_workers is None else f"max_concurrent={options.max_workers}"
        return ExecutorModel(expression=f"{options.executor}({limit})")
    if options.max_workers is not None:
        raise CompileError(
            f"--max-workers can't be used with --executor {options.executor}: it sets the limit of the "
            "threads and multiprocess executors. Configure another executor where it is defined."
        )
    if options.executor == "in_process":
        return ExecutorModel(expression="dg.in_process_executor")
    return _custom_executor(options.executor)


def _custom_executor(path: str) -> ExecutorModel:
    if _IMPORT_PATH.fullmatch(path) is None:
        raise CompileError(
            f"--executor is {path!r}. Use multiprocess, in_process, or the import path of an executor "
            "definition, as in dagster_k8s:k8s_job_executor."
        )
    imported, executor = _imported("--executor", path, alias="custom_executor")
    from dagster import ExecutorDefinition

    if not isinstance(executor, ExecutorDefinition):
        raise CompileError(f"--executor {path} is a {type(executor).__name__}, not a dagster.ExecutorDefinition.")
    return ExecutorModel("custom_executor", imported)


def translator_of(options: JobOptions) -> ImportModel | None:
    """The translator that the options name, or None.

    Raises:
        CompileError: It can't be imported, or is no translator.
    """
    path = options.translator
    if path is None:
        return None
    if _IMPORT_PATH.fullmatch(path) is None:
        raise CompileError(f"--translator is {path!r}. Use the import path of a class: package.module:ShopTranslator.")
    imported, translator = _imported("--translator", path, alias="custom_translator")
    from metaflow_pipes.runtime import DagsterMetaflowTranslator

    if not (isinstance(translator, type) and issubclass(translator, DagsterMetaflowTranslator)):
        raise CompileError(f"--translator {path} is no subclass of metaflow_pipes.runtime.DagsterMetaflowTranslator.")
    return imported


def _imported(option: str, path: str, alias: str) -> tuple[ImportModel, object]:
    """What stands at an import path, and how the generated file gets at it."""
    module, _, attribute = path.partition(":")
    try:
        return ImportModel(module, attribute, alias), getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise CompileError(f"{option} {path} can't be imported: {error}") from None


def check_log_level(options: JobOptions) -> None:
    """Check the log level.

    Raises:
        CompileError: There is no such level.
    """
    if options.log_level not in LOG_LEVELS:
        raise CompileError(f"--log-level is {options.log_level!r}. Use one of {', '.join(LOG_LEVELS)}.")


def check_workflow_timeout(options: JobOptions) -> None:
    """Check the time limit of runs.

    Raises:
        CompileError: It is less than a second.
    """
    if options.workflow_timeout is not None and options.workflow_timeout < 1:
        raise CompileError(
            f"--workflow-timeout is {options.workflow_timeout}, but a run needs at least 1 second. Leave the option "
            "out for runs without a limit."
        )


def parse_step_env(items: Iterable[str]) -> Mapping[str, str | FromRunEnvironment]:
    """Parse `--step-env` options.

    Args:
        items: Each `KEY=VALUE`, or `KEY` for a value that the run's own environment holds.

    Raises:
        CompileError: An item has no name before the first `=`, or a name or value that no environment can hold.
    """
    step_env: dict[str, str | FromRunEnvironment] = {}
    for item in items:
        name, separator, value = item.partition("=")
        step_env[name] = value if separator else FromRunEnvironment(name)
    return check_step_env(step_env)


def check_step_env(
    step_env: Mapping[str, str | FromRunEnvironment],
) -> Mapping[str, str | FromRunEnvironment]:
    """Check the names and values of `step_env`, and give it back.

    Raises:
        CompileError: A name or value can't be put into an environment.
    """
    for name, value in step_env.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise CompileError(
                f"The step_env variable {name!r} has no usable name. Write --step-env KEY=VALUE, or "
                "--step-env KEY for a value that the run's environment holds; a name is not empty and holds no '='."
            )
        if not isinstance(value, (str, FromRunEnvironment)):
            raise CompileError(
                f"The step_env variable {name} is a {type(value).__name__}, but environment variables are "
                "strings. Use str(...), or json.dumps(...) for a structured value."
            )
        if isinstance(value, str) and "\0" in value:
            raise CompileError(f"The step_env variable {name} has a value with a NUL character.")
    return step_env


def check_tags(tags: Sequence[str]) -> None:
    """Check Metaflow tags.

    Raises:
        CompileError: They are no sequence of strings, or Metaflow does not allow one of them.
    """
    from metaflow.tagging_util import MetaflowTaggingError, validate_tags

    if isinstance(tags, str):
        raise CompileError(f"tags is {tags!r}, but has to be a sequence of tags.")
    try:
        validate_tags(tags)
    except MetaflowTaggingError as error:
        raise CompileError(f"A tag can't be used: {error.message}") from None
