"""The job's executor: `--executor` with its options, and where its steps with `@kubernetes` run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaflow_pipes.compile.import_paths import is_import_path, load
from metaflow_pipes.compile.job_model import ExecutorModel
from metaflow_pipes.errors import CompileError
from metaflow_pipes.names import WARM_STARTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagster import ExecutorDefinition

    from metaflow_pipes.compile.job_options import JobOptions


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
    if not is_import_path(path):
        raise CompileError(
            f"--executor is {path!r}. Use threads, multiprocess, in_process, or the import path of an "
            "executor definition, as in dagster_k8s:k8s_job_executor."
        )
    imported, executor = load("--executor", path, alias="custom_executor")
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
