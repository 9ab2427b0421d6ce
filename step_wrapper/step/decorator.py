"""The step decorator `dagster_internal`: where Metaflow itself meets the Dagster op that runs it.

Attached to every step by `--with`, as Metaflow's own schedulers attach theirs. Imported by every Metaflow
process, and idle in those that are no step of a Dagster run.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster_pipes import PipesEnvVarParamsLoader
from metaflow.decorators import StepDecorator
from metaflow.packaging_sys import ContentType
from metaflow.unbounded_foreach import UBF_CONTROL

from metaflow_extensions.metaflow_pipes.plugins import checks
from metaflow_extensions.metaflow_pipes.plugins.given import PARAMETERS_VARIABLE, open_pipes, pass_on_parameters
from step_wrapper.control import CLONES, CODE_ENDS, CODE_STARTS, STEP_STARTS
from step_wrapper.handover import TRAMPOLINE_VARIABLE
from step_wrapper.step import events, garbage, running, triggers
from step_wrapper.step.hooks import changes_launch, own_interpreter

if TYPE_CHECKING:
    from step_wrapper.launch import Launch
    from step_wrapper.step.running import Index


# The decorator that means the op's own pod, if that is one.
KUBERNETES = "kubernetes"


class DagsterInternalDecorator(StepDecorator):
    """Stores the run's parameters, registers where the task runs, and watches its code start, end and fail."""

    name = "dagster_internal"

    def step_init(
        self,
        flow: Any,
        graph: Any,
        step_name: str,
        decorators: Any,
        environment: Any,
        flow_datastore: Any,
        logger: Any,
    ) -> None:
        """Before the task is registered: say which Dagster run it is of, and store the parameters of a new run.

        Raises:
            SystemExit: The start step of a resumed run is cloned, and is not to run.
        """
        task = running.current
        if task is None:
            # a worker of num_parallel, maybe
            if PARAMETERS_VARIABLE in os.environ and step_name == graph.start_step:
                pass_on_parameters(flow, flow_datastore, os.environ[PARAMETERS_VARIABLE])
            if os.environ.get(TRAMPOLINE_VARIABLE):
                from step_wrapper.step import trampoline

                trampoline.prepare(decorators, flow_datastore)
            return
        if step_name != task.launch.step:
            return
        from metaflow._vendor import click

        from step_wrapper.report.datastore import spare_processes
        from step_wrapper.report.registration import limit_requests

        click_context: Any = click.get_current_context()
        spare_processes(click_context.obj.flow_datastore)
        limit_requests(click_context.obj.metadata)
        click_context.obj.metadata.add_sticky_tags(sys_tags=task.launch.all_system_tags)
        if task.index is not None:
            task.tell(CLONES)
        if task.launch.init is not None and not (task.launch.attempt and _has_parameters(task.launch, click_context)):
            _init_run(flow, task, click_context)
        if task.index is not None:
            _resume(flow, task, task.index, click_context)
            task.tell(STEP_STARTS)
        if task.launch.is_own_pod:
            decorators[:] = [decorator for decorator in decorators if decorator.name != KUBERNETES]
        if any(map(changes_launch, decorators)) or own_interpreter(environment, step_name) is not None:
            from step_wrapper.step import launching

            launching.ask_hooks_first(task, click_context)

    def add_to_package(self) -> list[tuple[str, str, ContentType]]:
        """The part of Dagster that the step's code may import, in a remote step as well."""
        import dagster_pipes

        folder = Path(dagster_pipes.__file__).parent
        files = sorted(folder.rglob("*.py"))
        return [(str(file), str(file.relative_to(folder.parent)), ContentType.CODE_CONTENT) for file in files]

    def task_pre_step(
        self,
        step_name: str,
        task_datastore: Any,
        metadata: Any,
        run_id: str,
        task_id: str,
        flow: Any,
        graph: Any,
        retry_count: int,
        max_user_code_retries: int,
        ubf_context: Any,
        inputs: Any,
    ) -> None:
        """Just before the step's code runs."""
        events.publish_argo_events_here()
        task = running.current
        triggers.show(task, is_control=ubf_context == UBF_CONTROL)
        if task is None:
            if not PipesEnvVarParamsLoader().is_dagster_pipes_process():
                open_pipes()
            return
        task.seen.next_steps = list(graph[step_name].out_funcs)
        task.seen.is_switch = graph[step_name].type == "split-switch"
        task.seen.has_cards = any(decorator.name == "card" for decorator in graph[step_name].decorators)
        for datastore in inputs or ():
            for name, key in datastore._objects.items():
                task.seen.inherited.setdefault(name, set()).add(key)
        from step_wrapper.report.registration import register_dagster_run
        from step_wrapper.step.checks import take_own_checks

        task.checks = checks.begin(step_name, task_datastore, metadata, run_id, task_id, retry_count)
        take_own_checks(task.checks, task.launch.asset_key)
        register_dagster_run(task.launch, metadata)
        garbage.collect_as_usual()
        task.tell(CODE_STARTS)

    def task_post_step(
        self, step_name: str, flow: Any, graph: Any, retry_count: int, max_user_code_retries: int
    ) -> None:
        """Called when the step's code has ended well.

        Raises:
            CheckFailedError: A check that is blocking has failed.
        """
        task = running.current
        if task is not None:
            task.tell(CODE_ENDS)
            if task.checks is not None:
                task.store_checks()
                task.checks.raise_if_failed(task.launch.blocking_checks)

    def task_exception(
        self,
        exception: BaseException,
        step_name: str,
        flow: Any,
        graph: Any,
        retry_count: int,
        max_user_code_retries: int,
    ) -> None:
        """Called when the step's code has raised. Does not handle the exception: that is `@catch`'s."""
        if running.current is not None:
            running.current.seen.exception = exception
            running.current.tell(CODE_ENDS)
            running.current.store_checks()


def _has_parameters(launch: Launch, context: Any) -> bool:
    """Whether an earlier attempt has stored the parameters, which stay the same for the whole run."""
    from metaflow.datastore.exceptions import DataException

    run_id, _, task_id = launch.parameters.split("/")
    try:
        context.obj.flow_datastore.get_task_datastore(run_id, "_parameters", task_id)
    except DataException:
        return False
    return True


def _init_run(flow: Any, task: running.RunningTask, context: Any) -> None:
    """Begin a run as Metaflow does: store its parameters by the `init` command, and call it the latest one.

    A run that resumes another takes the parameters of that run.
    """
    from metaflow.util import write_latest_run_id

    launch, resumption, index = task.launch, task.launch.resumption, task.index
    kept: dict[str, Any] = {}
    if resumption is not None and index is not None:
        from step_wrapper.step.resume import clone_parameters, kept_parameters

        if not resumption.overridden_parameters:
            clone_parameters(launch, index, context.obj.flow_datastore, context.obj.metadata)
            return
        kept = kept_parameters(flow, resumption, index, context.obj.flow_datastore)
    state = copy.copy(context.obj)
    # a flow of its own, since storing the parameters leaves marks on the one that the step will run
    state.flow = flow.__class__(use_cli=False)
    state.package = None
    init = copy.copy(context.find_root().command.get_command(context, "init"))
    init.params = [option for option in init.params if option.name not in kept]
    with init.make_context("init", list(launch.init or ()), parent=context, obj=state) as init_context:
        init_context.params.update(kept)
        init.invoke(init_context)
    if launch.datastore == "local" and resumption is None:
        # where `python flow.py resume` and others find the run that they go on with; Metaflow's own leaves it, too
        write_latest_run_id(state, launch.run_id)


def _resume(flow: Any, task: running.RunningTask, index: Index, context: Any) -> None:
    """Clone the start step, which other steps are without the flow; or see to the parameters of a step that runs.

    Raises:
        SystemExit: The step is cloned.
    """
    from step_wrapper.report.registration import register_dagster_run
    from step_wrapper.step.resume import PARAMETERS_STEP, clone_task

    launch, resumption = task.launch, task.launch.resumption
    if launch.init is not None:
        task.clone = clone_task(launch, index, context.obj.flow_datastore, context.obj.metadata)
        if task.clone is not None:
            register_dagster_run(launch, context.obj.metadata)
            raise SystemExit(0)
    elif resumption is not None and resumption.overridden_parameters:
        parameters = f"{launch.flow}/{launch.run_id}/{PARAMETERS_STEP}/{index.parameters}"
        pass_on_parameters(flow, context.obj.flow_datastore, parameters)
