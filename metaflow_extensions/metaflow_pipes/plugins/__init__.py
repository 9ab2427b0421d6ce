"""The plugins of metaflow-pipes by name. Metaflow imports this in each of its processes, so it does nothing else.

Metaflow copies `metaflow_extensions` into its code packages, but neither `metaflow_pipes` nor `step_wrapper`. A step
that runs from such a package, on Kubernetes for instance, must find all that is named here.
"""

from importlib.util import find_spec


def _is_installed(module: str) -> bool:
    """Whether a module is here. That imports the packages it is in, which Metaflow then does anyway."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even its package
        return False


if _is_installed("metaflow_pipes.api.deployer"):
    CLIS_DESC = [("dagster", "metaflow_pipes.cli.group.cli")]
    DEPLOYER_IMPL_PROVIDERS_DESC = [("dagster", "metaflow_pipes.api.deployer.DagsterDeployer")]

# `from metaflow import dagster_check`: in code packages, too
TL_PLUGINS_DESC = [("dagster_check", ".checks.dagster_check")]

# This one is always named: it may stand in the command of a step.
if _is_installed("step_wrapper.step.decorator"):
    STEP_DECORATORS_DESC = [("dagster_internal", "step_wrapper.step.decorator.DagsterInternalDecorator")]
else:
    STEP_DECORATORS_DESC = [("dagster_internal", ".no_decorator.DagsterInternalDecorator")]
