"""The options of `create` and `DagsterCompiler`: each is checked here, and what it names is imported."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metaflow_pipes.compile.automation.notifications import check_notifications
from metaflow_pipes.compile.job_model import ExecutorModel, ImportModel
from metaflow_pipes.compile.job_options import FromRunEnvironment
from metaflow_pipes.compile.partitions import check_partition_options
from metaflow_pipes.errors import CompileError
from metaflow_pipes.names import KUBERNETES_CHOICES, WARM_STARTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dagster import ExecutorDefinition

    from metaflow_pipes.compile.job_options import JobOptions


# The levels of `logging` at which records of the steps can start to be sent to Dagster.
LOG_LEVELS = ("debug", "info", "warning", "error", "critical", "off")

# The types of the options that have one. A boolean is no number here, though Python takes it for one.
_TYPES = {
    "name": str,
    "namespace": str,
    "kubernetes": str,
    "max_workers": int,
    "executor": str,
    "log_level": str,
    "translator": str,
    "workflow_timeout": int,
    "paused": bool,
    "notify_on_error": bool,
    "notify_on_success": bool,
    "notify_slack_webhook_url": str,
    "notify_webhook_url": str,
    "notify_email": str,
    "max_concurrent_runs": int,
    "priority": int,
    "warm": str,
    "automation": str,
    "partition_format": str,
    "package": bool,
}
# What Dagster stores of a priority: 32 bits.
MAX_PRIORITY = 2**31 - 1

# As `dagster._core.definitions.op_definition.VALID_POOL_NAME_REGEX`.
_POOL_NAME = re.compile(r"\S+")
_IMPORT_PATH = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<attribute>[A-Za-z_]\w*)")


def check_options(options: JobOptions) -> None:
    """Check all that can be said of the options without the flow, and without importing what they name.

    Raises:
        CompileError: An option can't be used; names it and says what is allowed.
    """
    check_types({option: getattr(options, option) for option in _TYPES}, _TYPES)
    for option in ("executor", "log_level"):
        if getattr(options, option) is None:
            raise CompileError(f"{option} is None, but has to be of type str. Leave it out for the default.")
    check_tags(options.tags)
    _check_step_env(options.step_env)
    if options.kubernetes not in (None, *KUBERNETES_CHOICES):
        raise CompileError(f"--kubernetes is {options.kubernetes!r}. Use one of {', '.join(KUBERNETES_CHOICES)}.")
    if options.max_workers is not None and options.max_workers < 1:
        raise CompileError(f"--max-workers is {options.max_workers}, but at least one step must be able to run.")
    if options.log_level.lower() not in LOG_LEVELS:
        raise CompileError(f"--log-level is {options.log_level!r}. Use one of {', '.join(LOG_LEVELS)}.")
    if options.warm not in WARM_STARTS:
        raise CompileError(f"--warm is {options.warm!r}. Use one of {', '.join(WARM_STARTS)}.")
    check_workflow_timeout(options.workflow_timeout)
    check_notifications(options)
    check_partition_options(options)
    if options.max_concurrent_runs is not None and options.max_concurrent_runs < 1:
        raise CompileError(
            f"--max-concurrent-runs is {options.max_concurrent_runs}, but at least one run has to be allowed. To start "
            "none, use --paused."
        )
    if options.priority is not None and abs(options.priority) > MAX_PRIORITY:
        raise CompileError(f"--priority is {options.priority}. Use a number from -{MAX_PRIORITY} to {MAX_PRIORITY}.")
    for option in ("schedule_parameters", "pools", "executor_config"):
        value = getattr(options, option)
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise CompileError(f"{option} is {value!r}, but has to be a mapping of names to values.")


def check_workflow_timeout(seconds: int | None) -> None:
    """Check the time limit of a run.

    Raises:
        CompileError: No run could keep it.
    """
    if seconds is not None and seconds < 1:
        raise CompileError(
            f"--workflow-timeout is {seconds}, but a run needs at least 1 second. Leave the option out for runs "
            "without a limit."
        )


def check_types(values: Mapping[str, object], types: Mapping[str, type]) -> None:
    """Check the types of options, which can be wrong where they come from Python.

    Args:
        values: The options' values; None is an option that was not given.
        types: The type of each.

    Raises:
        CompileError: A value is of another type.
    """
    for option, value in values.items():
        expected = types[option]
        is_other = not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool)
        if value is not None and is_other:
            raise CompileError(f"{option} is {value!r}, but has to be of type {expected.__name__}.")


def check_list(option: str, values: object) -> None:
    """Check an option that can be given several times, which can be anything where it comes from Python.

    Raises:
        CompileError: It is no list or tuple of strings.
    """
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, str) for value in values):
        raise CompileError(f"{option} is {values!r}, but has to be a list of str.")


def executor_of(options: JobOptions, foreach_steps: Sequence[str] = ()) -> ExecutorModel:
    """The executor that the options name.

    Args:
        options: The options.
        foreach_steps: The steps whose ops have dynamic outputs.

    Raises:
        CompileError: There is none of that name, it does not take `max_workers`, or it can't run a foreach.
    """
    if options.warm != WARM_STARTS[0] and options.executor != "threads":
        raise CompileError(
            f"--warm can't be used with --executor {options.executor}, which starts each step by itself: the threads "
            "executor forks them from one process."
        )
    if options.executor in ("threads", "multiprocess"):
        arguments = [] if options.max_workers is None else [f"max_concurrent={options.max_workers}"]
        if options.warm != WARM_STARTS[0]:
            arguments.append(f'warm="{options.warm}"')
        if options.executor_config:
            from metaflow_pipes.runtime import multiprocess, threads

            _check_executor_config(options, {"threads": threads, "multiprocess": multiprocess}[options.executor]())
        expression = f"{options.executor}({', '.join(arguments)})"
        return ExecutorModel(expression, config=options.executor_config)
    if options.max_workers is not None:
        raise CompileError(
            f"--max-workers can't be used with --executor {options.executor}: it sets the limit of the "
            "threads and multiprocess executors. Configure another executor where it is defined."
        )
    if options.executor == "in_process":
        if options.executor_config:
            from dagster import in_process_executor

            _check_executor_config(options, in_process_executor)
        return ExecutorModel("dg.in_process_executor", config=options.executor_config)
    return _custom_executor(options, foreach_steps)


def _custom_executor(options: JobOptions, foreach_steps: Sequence[str]) -> ExecutorModel:
    path = options.executor
    if _IMPORT_PATH.fullmatch(path) is None:
        raise CompileError(
            f"--executor is {path!r}. Use threads, multiprocess, in_process, or the import path of an "
            "executor definition, as in dagster_k8s:k8s_job_executor."
        )
    imported, executor = _imported("--executor", path, alias="custom_executor")
    from dagster import ExecutorDefinition

    if not isinstance(executor, ExecutorDefinition):
        raise CompileError(f"--executor {path} is a {type(executor).__name__}, not a dagster.ExecutorDefinition.")
    from metaflow_pipes.runtime.executors.planning import has_fixed_plan

    if foreach_steps and has_fixed_plan(executor):
        raise CompileError(
            f"--executor {path} can't run the foreach of step {', '.join(foreach_steps)}: it plans all steps before "
            "the run, and would leave out the items and what follows. Use threads, multiprocess, or another executor "
            "that resolves Dagster's dynamic outputs."
        )
    if options.executor_config:
        _check_executor_config(options, executor)
    from metaflow_pipes.runtime.executors.kubernetes import PACKAGE_OF_RUN_LAUNCHER, PACKAGES_WITH_PODS, package_of

    package = package_of(executor)
    expression = "on_kubernetes(custom_executor)" if package == PACKAGE_OF_RUN_LAUNCHER else "custom_executor"
    return ExecutorModel(expression, imported, package in PACKAGES_WITH_PODS, options.executor_config)


def _check_executor_config(options: JobOptions, executor: ExecutorDefinition) -> None:
    from metaflow_pipes.runtime.executors.configured import problems_of

    problems = problems_of(executor, options.executor_config)
    if problems:
        raise CompileError(
            f"--executor-config can't be the config of --executor {options.executor}:\n" + "\n".join(problems)
        )


def kubernetes_of(options: JobOptions, executor: ExecutorModel) -> str:
    """The place where a step with `@kubernetes` runs: the `pod` of its op, or a `job` that Metaflow launches.

    Raises:
        CompileError: It is to be the pod of its op, and the executor launches none.
    """
    if options.kubernetes == "pod" and not executor.launches_pods:
        raise CompileError(
            f"--kubernetes pod can't be used with --executor {options.executor}, which launches no pods. Use "
            "--kubernetes job, or an executor that does, as dagster_k8s:k8s_job_executor."
        )
    return options.kubernetes or ("pod" if executor.launches_pods else "job")


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


def overridden_by_translator(options: JobOptions) -> frozenset[str]:
    """The names of the methods that the user's translator has of its own.

    Raises:
        CompileError: As for `translator_of`.
    """
    if translator_of(options) is None:
        return frozenset()
    from metaflow_pipes.runtime import DagsterMetaflowTranslator

    _, translator = _imported("--translator", options.translator or "", alias="custom_translator")
    return frozenset(
        name
        for name in vars(DagsterMetaflowTranslator)
        if not name.startswith("_") and getattr(translator, name) is not getattr(DagsterMetaflowTranslator, name)
    )


def refuse_said_twice(options: JobOptions, option: str, method: str) -> None:
    """Refuse an option that is given if the translator says the same.

    Args:
        options: What the user asks for.
        option: The option, as on the command line.
        method: The translator's method.

    Raises:
        CompileError: It does.
    """
    if method in overridden_by_translator(options):
        raise CompileError(
            f"{option} is given, and the translator {options.translator} has {method}, which says the same. Use one of "
            "them."
        )


def _imported(option: str, path: str, alias: str) -> tuple[ImportModel, object]:
    """The object at an import path, and how the generated file imports it.

    Modules are looked for where Dagster will find them when it loads the file: in the working directory, too.
    """
    module, _, attribute = path.partition(":")
    own_path = list(sys.path)
    sys.path.append(str(Path.cwd()))
    try:
        return ImportModel(module, attribute, alias), getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise CompileError(f"{option} {path} can't be imported: {error}") from None
    finally:
        sys.path[:] = own_path


def parse_step_env(items: Iterable[str]) -> dict[str, str | FromRunEnvironment]:
    """Parse `--step-env` options.

    Args:
        items: Each `KEY=VALUE`, or `KEY` for a value that the run's own environment holds.
    """
    step_env: dict[str, str | FromRunEnvironment] = {}
    for item in items:
        name, separator, value = item.partition("=")
        step_env[name] = value if separator else FromRunEnvironment(name)
    return step_env


def parse_pairs(option: str, items: Iterable[str]) -> dict[str, str | list[str]]:
    """Parse an option `NAME=VALUE` that can be given several times.

    Args:
        option: The option.
        items: The pairs.

    Returns:
        The value of each name; a list for one that is given several times.

    Raises:
        CompileError: There is a pair without name or `=`.
    """
    pairs: dict[str, str | list[str]] = {}
    for item in items:
        name, separator, value = item.partition("=")
        if not separator or not name:
            raise CompileError(f"{option} {item!r} is not of the form NAME=VALUE.")
        before = pairs.get(name, [])
        pairs[name] = value if name not in pairs else [*([before] if isinstance(before, str) else before), value]
    return pairs


def parse_param_from(items: Iterable[str]) -> dict[str, str]:
    """Parse `--param-from` options, each `PARAMETER=KEY`.

    Raises:
        CompileError: There is one of another form, or several assets fill a parameter.
    """
    return _single_values(
        "--param-from",
        items,
        lambda parameter, keys: f"fills the parameter {parameter} from {' and '.join(keys)}. Name one asset.",
    )


def parse_partition_by(items: Iterable[str]) -> dict[str, str]:
    """Parse `--partition-by` options, each `PARAMETER=SPEC`.

    Raises:
        CompileError: There is one of another form, or a parameter has several specs.
    """
    return _single_values(
        "--partition-by",
        items,
        lambda parameter, _: f"names the parameter {parameter} twice. Each dimension fills its own.",
    )


def parse_pools(items: Iterable[str]) -> dict[str, str]:
    """Parse `--pool` options, each `STEP=NAME`.

    Raises:
        CompileError: There is one of another form, or a step has several pools.
    """
    return _single_values(
        "--pool", items, lambda step, pools: f"gives step *{step}* the pools {', '.join(pools)}, but a step has one."
    )


def _single_values(option: str, items: Iterable[str], problem: Callable[[str, list[str]], str]) -> dict[str, str]:
    """The values of an option that gives each name one.

    Args:
        option: The option, as on the command line.
        items: Each `NAME=VALUE`.
        problem: What the option does wrong that gives a name several values, for a sentence that begins with it.
    """
    values: dict[str, str] = {}
    for name, value in parse_pairs(option, items).items():
        if not isinstance(value, str):
            raise CompileError(f"{option} {problem(name, value)}")
        values[name] = value
    return values


def check_pools(pools: Mapping[str, str], flow: str, steps: Sequence[str]) -> None:
    """Check the pools of a flow's steps.

    Args:
        pools: For each step that has one, its pool.
        flow: The flow's name.
        steps: The names of its steps.

    Raises:
        CompileError: The flow has no such step, or Dagster takes no such pool.
    """
    for step, pool in pools.items():
        if step not in steps:
            raise CompileError(
                f"--pool names the step {step}, which flow *{flow}* does not have. Its steps are {', '.join(steps)}."
            )
        if not isinstance(pool, str) or _POOL_NAME.fullmatch(pool) is None:
            raise CompileError(
                f"--pool gives step *{step}* the pool {pool!r}, but the name of a Dagster pool is not empty, and "
                "has no spaces."
            )


def concurrent_runs(max_concurrent_runs: int | None, *, no_overlap: bool) -> int | None:
    """The number of runs that can be under way, by `--max-concurrent-runs` or `--no-overlap`.

    Raises:
        CompileError: Both are given.
    """
    if no_overlap and max_concurrent_runs is not None:
        raise CompileError(
            "--no-overlap and --max-concurrent-runs are given, but the first is the same as --max-concurrent-runs 1. "
            "Give one of them."
        )
    return 1 if no_overlap else max_concurrent_runs


def _check_step_env(step_env: Mapping[str, str | FromRunEnvironment]) -> None:
    if not isinstance(step_env, Mapping):
        raise CompileError(f"step_env is {step_env!r}, but has to be a mapping of names to values.")
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


def check_tags(tags: Sequence[str]) -> None:
    """Check Metaflow tags.

    Raises:
        CompileError: Metaflow does not take one of them.
    """
    from metaflow.tagging_util import MetaflowTaggingError, validate_tags

    check_list("tags", tags)
    try:
        validate_tags(tags)
    except MetaflowTaggingError as error:
        raise CompileError(f"A tag can't be used: {error.message}") from None
