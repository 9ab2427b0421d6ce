"""Stage 2: a `FlowModel` becomes a `JobModel`. Pure functions over plain data; all reasoning about graphs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from metaflow_pipes.compile.automation.conditions import automation_sensors, automation_warnings, condition_of
from metaflow_pipes.compile.automation.exit_hooks import exit_hook_sensors
from metaflow_pipes.compile.automation.notifications import notification_sensors, without_secrets
from metaflow_pipes.compile.automation.schedules import schedules_of
from metaflow_pipes.compile.automation.triggers import trigger_sensors
from metaflow_pipes.compile.deployed import as_deployed
from metaflow_pipes.compile.executor import executor_of, kubernetes_of
from metaflow_pipes.compile.job_model import JobModel, OpModel
from metaflow_pipes.compile.lineage import dependencies_of, with_asset_parameters
from metaflow_pipes.compile.naming import definition_name, is_free_identifier, job_name, op_names
from metaflow_pipes.compile.options import check_options, check_pools
from metaflow_pipes.compile.partitions import partitions_of
from metaflow_pipes.compile.pods import TAG as POD_TAG
from metaflow_pipes.compile.pods import pod_config, pod_warnings
from metaflow_pipes.compile.translator import translator_of
from metaflow_pipes.compile.warnings import (
    config_warnings,
    credential_warnings,
    exit_hook_warnings,
    limit_warnings,
    notification_warnings,
    trigger_warnings,
)
from metaflow_pipes.compile.wiring import wire
from metaflow_pipes.names import FLOW_TAG, KUBERNETES, MAX_RUNTIME_TAG, PRIORITY_TAG
from metaflow_pipes.run_options import shown_tags

if TYPE_CHECKING:
    from collections.abc import Mapping

    from metaflow_pipes.compile.flow_model import FlowModel, StepModel
    from metaflow_pipes.compile.job_model import ExecutorModel
    from metaflow_pipes.compile.job_options import JobOptions
    from metaflow_pipes.compile.wiring import Wiring


def lower(flow: FlowModel, options: JobOptions) -> JobModel:
    """Turn a flow into a Dagster job.

    Args:
        flow: The flow.
        options: What the user asks for.

    Raises:
        CompileError: An option can't be used; names it and says what is allowed.
    """
    check_options(options)
    options = replace(options, log_level=options.log_level.lower())
    flow = with_asset_parameters(as_deployed(flow, options), options)
    dependencies = dependencies_of(flow, options)
    condition = condition_of(options)
    name = job_name(flow.name, flow.deployment_name, options.name, is_project=flow.is_project)
    names = op_names([step.name for step in flow.steps], taken={name})
    check_pools(options.pools, flow.name, [step.name for step in flow.steps])
    outputs = {
        step.name: {target: names[target] for target in step.exits}
        for step in flow.steps
        if step.kind == "switch" and len(step.exits) > 1
    }
    partitions = partitions_of(flow, options)
    wiring = wire(flow.steps, outputs, names, taken={name})
    executor = executor_of(options, [step.name for step in flow.steps if step.name in wiring.item_steps])
    kubernetes = kubernetes_of(options, executor)
    return JobModel(
        name=name,
        function=name if is_free_identifier(name) else f"job_{name}",
        flow=flow,
        options=options,
        ops=tuple(
            replace(
                _op(flow, step, name, names[step.name], outputs.get(step.name, {}), wiring),
                tags=_op_tags(step, executor, kubernetes),
                pool=options.pools.get(step.name),
                materialized_by=wiring.collectors.get(step.name),
                depends_on=dependencies.get(step.name, ()),
            )
            for step in flow.steps
        ),
        helpers=wiring.helpers,
        statements=wiring.statements,
        executor=executor,
        kubernetes=kubernetes,
        translator=translator_of(options),
        partitions=partitions,
        tags=_run_tags(flow, options),
        schedules=schedules_of(flow, name, options, partitions),
        sensors=(
            *automation_sensors(flow, name, options),
            *trigger_sensors(flow, name, options),
            *exit_hook_sensors(flow, name, options),
            *notification_sensors(name, without_secrets(options)),
        ),
        warnings=(
            *trigger_warnings(flow),
            *limit_warnings(flow, options),
            *config_warnings(flow),
            *credential_warnings(flow, options),
            *exit_hook_warnings(flow),
            *notification_warnings(options),
            *automation_warnings(flow, options),
            *(pod_warnings(flow) if executor.launches_pods and kubernetes == "pod" else ()),
        ),
        depends_on=dependencies.get(None, ()),
        condition=condition,
    )


def _op(flow: FlowModel, step: StepModel, job: str, name: str, switch: Mapping[str, str], wiring: Wiring) -> OpModel:
    return OpModel(
        step=step,
        name=name,
        definition=definition_name(job, name),
        function=f"op_{step.name}",
        inputs=wiring.inputs[step.name],
        takes_list=step.name in wiring.list_steps,
        emits_items=step.name in wiring.item_steps,
        switch={} if step.region else switch,
        is_routed=step.name in wiring.routed_steps,
        collected_by=_collected_by(step, flow),
        items_of=_items_of(step, flow),
        max_retries=step.user_code_retries + step.error_retries,
    )


def _collected_by(step: StepModel, flow: FlowModel) -> str | None:
    """The join that ends the outermost foreach around a step."""
    if not step.region:
        return None
    loop = step.region[0]
    inside = {other.name for other in flow.steps if other.region[:1] == (loop,)}
    joins = (other.name for other in flow.steps if not other.region and not inside.isdisjoint(other.in_steps))
    return next(joins, None)


def _items_of(step: StepModel, flow: FlowModel) -> str | None:
    """The step of the innermost foreach around a step; None if a switch in that can pass the step by."""
    if not step.region:
        return None
    steps = {other.name: other for other in flow.steps}
    loop = step.region[-1]
    for switch in flow.steps:
        if switch.kind == "switch" and loop in switch.region:
            leads_here = {step.name in _below(steps, name) for name in switch.exits}
            if len(leads_here) == 2:
                return None
    return next((in_step for in_step in steps[loop].in_steps if steps[in_step].kind == "foreach"), None)


def _below(steps: Mapping[str, StepModel], name: str) -> set[str]:
    """A step and all that can come behind it."""
    found: set[str] = set()
    todo = [name]
    while todo:
        step = todo.pop()
        if step not in found:
            found.add(step)
            todo += steps[step].out_steps
    return found


def _run_tags(flow: FlowModel, options: JobOptions) -> dict[str, str]:
    """The tags of each run: the flow, its limit, its priority, and the Metaflow tags."""
    limit = {} if options.workflow_timeout is None else {MAX_RUNTIME_TAG: str(options.workflow_timeout)}
    priority = {} if options.priority is None else {PRIORITY_TAG: str(options.priority)}
    return {FLOW_TAG: flow.name, **limit, **priority, **shown_tags(options.tags)}


def _op_tags(step: StepModel, executor: ExecutorModel, kubernetes: str) -> dict[str, Any]:
    """The tags of an op: the resources that its step asks for, for people, and for its pod, if it has one."""
    shown = {f"metaflow/{resource}": amount for resource, amount in sorted(step.resources.items())}
    # what waits for a job needs little itself
    is_elsewhere = KUBERNETES in step.launchers and kubernetes == "job"
    pod = pod_config(step.compute) if executor.launches_pods and not is_elsewhere else {}
    return {**shown, **({POD_TAG: pod} if pod else {})}
