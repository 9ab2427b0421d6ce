"""Re-executions of runs that ended within a foreach, of which Dagster leaves out the items that had not begun.

Dagster plans a re-execution from failure by the events of the runs before. A mapped step that has none is neither
failed nor interrupted: it is not planned, and the step that collects the items takes it for one that was skipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.events import EngineEventData
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.step import ExecutionStep
from dagster._core.system_config.objects import ResolvedRunConfig

from metaflow_pipes.runtime.ids import runs_before

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dagster._core.execution.plan.plan import ExecutionPlan

# How many steps a message names.
_NAMED_STEPS = 20


def with_steps_left_out(
    plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
) -> tuple[PlanOrchestrationContext, ExecutionPlan, dg.DagsterEvent | None]:
    """Add to a plan the mapped steps that its steps need, and that neither it nor any run before has.

    Args:
        plan_context: The context of the run.
        execution_plan: What Dagster has planned.

    Returns:
        Context and plan with those steps, and an event that names them; as they were, and None, if there are none.
    """
    run, job = plan_context.dagster_run, plan_context.job.get_definition()
    runs = runs_before(run, job, plan_context.instance)
    if not runs:
        return plan_context, execution_plan, None
    known = _done(plan_context.instance, runs).union(execution_plan.executable_map)
    left_out = _dependencies(
        execution_plan,
        execution_plan.executable_map,
        lambda key: key not in known and _is_mapped(execution_plan, key),
    )
    if not left_out:
        return plan_context, execution_plan, None
    added = [key for key in execution_plan.step_dict_by_key if key in left_out]
    keys = [*execution_plan.step_keys_to_execute, *added]
    plan = execution_plan.build_subset_plan(keys, job, ResolvedRunConfig.build(job, run.run_config))
    # what a step that the run does not name has put out is looked for in the runs before
    plan_data = plan_context.plan_data._replace(
        dagster_run=run._replace(step_keys_to_execute=keys), execution_plan=plan
    )
    context = PlanOrchestrationContext(
        plan_data,
        plan_context.log,
        plan_context.executor,
        plan_context.output_capture,
        plan_context.resume_from_failure,
    )
    message = f"Steps that had not been done, and that Dagster's plan leaves out, run as well: {named(added)}."
    return context, plan, dg.DagsterEvent.engine_event(context, message, EngineEventData())


def steps_left_out(context: dg.OpExecutionContext) -> list[str]:
    """The mapped steps above an op that have been done neither in its run nor in those that this goes on with.

    Args:
        context: The op's context.

    Returns:
        Their keys, in their order; none if the run is no re-execution.
    """
    runs = runs_before(context.run, context.job_def, context.instance)
    if not runs:
        return []
    step_context = context.get_step_execution_context()
    plan = step_context.execution_plan
    above = _dependencies(plan, [step_context.step.key], lambda _: True)
    above -= _done(context.instance, [context.run, *runs])
    return [key for key in plan.step_dict_by_key if key in above and _is_mapped(plan, key)]


def named(step_keys: list[str]) -> str:
    """Some steps, for a message: no more than people read."""
    more = len(step_keys) - _NAMED_STEPS
    return ", ".join(step_keys[:_NAMED_STEPS]) + (f" and {more} more" if more > 0 else "")


def _done(instance: dg.DagsterInstance, runs: Iterable[dg.DagsterRun]) -> set[str]:
    """The steps that runs have done, or skipped."""
    endings = {dg.DagsterEventType.STEP_SUCCESS, dg.DagsterEventType.STEP_SKIPPED}
    return {
        entry.step_key
        for run in runs
        for entry in instance.all_logs(run.run_id, of_type=endings)
        if entry.step_key is not None
    }


def _dependencies(plan: ExecutionPlan, step_keys: Iterable[str], is_wanted: Callable[[str], bool]) -> set[str]:
    """The steps that some steps need, directly or by way of others that are wanted."""
    found: set[str] = set()
    queue = list(step_keys)
    while queue:
        step = plan.step_dict_by_key.get(queue.pop())
        if isinstance(step, ExecutionStep):
            new = {key for key in step.get_execution_dependency_keys() - found if is_wanted(key)}
            found |= new
            queue += new
    return found


def _is_mapped(plan: ExecutionPlan, step_key: str) -> bool:
    step = plan.step_dict_by_key.get(step_key)
    return isinstance(step, ExecutionStep) and step.get_mapping_key() is not None
