"""What metaflow-pipes adds to Metaflow; Metaflow imports this in each of its processes, so it only names things."""

CLIS_DESC = [("dagster", "metaflow_pipes.cli.group.cli")]
DEPLOYER_IMPL_PROVIDERS_DESC = [("dagster", "metaflow_pipes.api.deployer.DagsterDeployer")]
STEP_DECORATORS_DESC = [("dagster_internal", "step_wrapper.step.decorator.DagsterInternalDecorator")]
