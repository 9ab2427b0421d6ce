"""Executors that launch each op as a Kubernetes job of its own: `dagster-k8s`."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    from dagster import Executor, ExecutorDefinition

# The packages of executors whose ops have pods that the tag `dagster-k8s/config` of the op is about.
PACKAGES_WITH_PODS = frozenset({"dagster_celery_k8s", "dagster_k8s"})
# That whose executor takes most of a pod from the instance's run launcher, and does not say so where it can't.
PACKAGE_OF_RUN_LAUNCHER = "dagster_k8s"


def package_of(executor: ExecutorDefinition) -> str:
    """The package of the function that creates an executor, also a configured one."""
    module = executor.executor_creation_fn.__module__ if executor.executor_creation_fn else ""
    return module.partition(".")[0]


@functools.cache
def on_kubernetes(executor: ExecutorDefinition) -> ExecutorDefinition:
    """An executor of dagster-k8s that says what is missing where the instance's run launcher is another one.

    The same executor gives the same one: `dg.Definitions.merge` takes several definitions only if they have one.

    Args:
        executor: `dagster_k8s.k8s_job_executor`, also configured.
    """
    create = executor.executor_creation_fn
    # of the type that each definition has, but not of that which one may be given by a user
    schema: Any = executor.config_schema

    def create_checked(context: dg.InitExecutorContext) -> Executor:
        _check_run_launcher(context, executor.name)
        assert create is not None
        return create(context)

    return dg.ExecutorDefinition(
        name=executor.name,
        config_schema=schema,
        requirements=executor.get_requirements,
        executor_creation_fn=create_checked,
        description=executor.description,
    )


def _check_run_launcher(context: dg.InitExecutorContext, name: str) -> None:
    from dagster_k8s import K8sRunLauncher  # pyright: ignore[reportMissingImports] - comes with the executor

    launcher = context.instance.run_launcher
    if not isinstance(launcher, K8sRunLauncher):
        raise dg.DagsterInvariantViolationError(
            f"Job {context.job.get_definition().name} has the executor {name}, which launches each step in a pod as "
            f"K8sRunLauncher launches runs. But the run launcher of this Dagster instance is "
            f"{type(launcher).__name__}. Dagster's Helm chart configures K8sRunLauncher; a dagster.yaml of your own "
            "needs:\n"
            "  run_launcher:\n"
            "    module: dagster_k8s\n"
            "    class: K8sRunLauncher\n"
            "    config: {job_image: ..., instance_config_map: ..., dagster_home: ..., service_account_name: ...}\n"
            "To run the flow without Kubernetes, compile it with another executor: dagster create --executor threads"
        )
