"""The step decorator `dagster_internal`: where Metaflow itself meets the Dagster op that runs it.

Attached to every step by `--with`, as Metaflow's own schedulers attach theirs. Imported by every Metaflow
process, and idle in those that are no step of a Dagster run.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from metaflow.decorators import StepDecorator

from step_wrapper import running

if TYPE_CHECKING:
    from step_wrapper.launch import Launch


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
        """Before the task is registered: say which Dagster run it is of, and store the parameters of a new run."""
        task = running.current
        if task is None or step_name != task.launch.step:
            return
        from metaflow._vendor import click

        click_context: Any = click.get_current_context()
        click_context.obj.metadata.add_sticky_tags(sys_tags=task.launch.system_tags)
        if task.launch.init is not None and not (task.launch.attempt and _has_parameters(task.launch, click_context)):
            _init_run(flow, task.launch, click_context)

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
        task = running.current
        if task is None:
            return
        task.next_steps = list(graph[step_name].out_funcs)
        task.is_switch = graph[step_name].type == "split-switch"
        task.has_cards = any(decorator.name == "card" for decorator in graph[step_name].decorators)
        for datastore in inputs or ():
            for name, key in datastore._objects.items():
                task.inherited.setdefault(name, set()).add(key)
        _register_dagster_run(task, metadata, run_id, step_name, task_id, retry_count)
        task.tell(running.CODE_STARTS)

    def task_post_step(
        self, step_name: str, flow: Any, graph: Any, retry_count: int, max_user_code_retries: int
    ) -> None:
        """When the step's code has ended well."""
        if running.current is not None:
            running.current.tell(running.CODE_ENDS)

    def task_exception(
        self,
        exception: BaseException,
        step_name: str,
        flow: Any,
        graph: Any,
        retry_count: int,
        max_user_code_retries: int,
    ) -> None:
        """When the step's code has raised. Does not handle the exception: that is `@catch`'s."""
        if running.current is not None:
            running.current.exception = exception
            running.current.tell(running.CODE_ENDS)


def _has_parameters(launch: Launch, context: Any) -> bool:
    """Whether an earlier attempt has stored the parameters, which stay the same for the whole run."""
    from metaflow.datastore.exceptions import DataException

    run_id, _, task_id = launch.parameters.split("/")
    try:
        context.obj.flow_datastore.get_task_datastore(run_id, "_parameters", task_id)
    except DataException:
        return False
    return True


def _init_run(flow: Any, launch: Launch, context: Any) -> None:
    """Begin a run as Metaflow does: store its parameters by the `init` command, and call it the latest one."""
    from metaflow.util import write_latest_run_id

    state = copy.copy(context.obj)
    # a flow of its own, since storing the parameters leaves marks on the one that the step will run
    state.flow = flow.__class__(use_cli=False)
    state.package = None
    init = context.find_root().command.get_command(context, "init")
    with init.make_context("init", list(launch.init or ()), parent=context, obj=state) as init_context:
        init.invoke(init_context)
    if launch.datastore == "local":
        # where `python flow.py resume` and others find the run that they go on with
        write_latest_run_id(state, launch.run_id)


def _register_dagster_run(
    task: running.RunningTask, metadata: Any, run_id: str, step_name: str, task_id: str, attempt: int
) -> None:
    from metaflow.metadata_provider import MetaDatum

    launch = task.launch
    facts = {
        "dagster-run-id": launch.dagster_run_id,
        "dagster-job-name": launch.dagster_job_name,
        "dagster-step-key": launch.dagster_step_key,
    }
    tags = [f"attempt_id:{attempt}"]
    entries = [MetaDatum(field=key, value=value, type=key, tags=tags) for key, value in facts.items()]
    metadata.register_metadata(run_id, step_name, task_id, entries)
