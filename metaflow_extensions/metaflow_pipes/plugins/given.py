"""Parameters and triggers, which a task of a Dagster run is given beside its inputs, in each process of the run.

Metaflow copies this file into its code packages: it works in steps on other systems, where `step_wrapper` is not.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

# Tells where the parameters of a resumed run are, which its clones do not have: `Flow/run_id/_parameters/task_id`.
PARAMETERS_VARIABLE = "METAFLOW_PIPES_PARAMETERS"
# Tells the events that have triggered the run.
TRIGGERS_VARIABLE = "METAFLOW_PIPES_TRIGGERS"


def pass_on_parameters(flow: Any, datastore: Any, pathspec: str) -> None:
    """Let a task that runs see the parameters of its run.

    Metaflow takes them from the tasks before, and clones have those of the origin.

    Args:
        flow: The flow.
        datastore: The flow's datastore, which from now on hands out the run's tasks with these parameters.
        pathspec: The task that holds them, `Flow/run_id/_parameters/task_id`.
    """
    flow_name, run_id, step, task_id = pathspec.split("/")
    if flow_name != flow.name:
        return  # a flow that the step's code runs
    os.environ[PARAMETERS_VARIABLE] = pathspec
    get_task_datastore = datastore.get_task_datastore
    parameters = get_task_datastore(run_id, step, task_id)
    names = [name for name, parameter in flow._get_parameters() if name in parameters and is_own(parameter)]

    def with_parameters(of_run: str, *args: Any, **options: Any) -> Any:
        task = get_task_datastore(of_run, *args, **options)
        if of_run == run_id and task._mode == "r" and hasattr(task, "_objects"):
            replace(task, parameters, names)
        return task

    datastore.get_task_datastore = with_parameters


def replace(task: Any, other: Any, names: Iterable[str]) -> None:
    """Take some artifacts of a task that has been read from another one."""
    names = list(names)
    task._objects = {**task._objects, **{name: other._objects[name] for name in names}}
    task._info = {**task._info, **{name: other._info[name] for name in names}}


def is_own(parameter: Any) -> bool:
    """Whether a parameter is none that a `Config` stands for."""
    return not parameter.IS_CONFIG_PARAMETER


def show_triggers(triggers: list[dict[str, Any]] | None = None) -> None:
    """Let the step's code see what has triggered its run, as `current.trigger`.

    Args:
        triggers: The events; None are those of the environment.
    """
    if triggers is None:
        triggers = json.loads(os.environ.get(TRIGGERS_VARIABLE, "[]"))
    if triggers:
        from metaflow import current
        from metaflow.events import Trigger

        current._update_env({"trigger": Trigger(triggers)})


def open_pipes() -> None:
    """Let `PipesContext` be open in a task that is no process of the wrapper's.

    On another system, it is of no effect, and no error. With another interpreter, Dagster hears what it reports; the
    session itself is the wrapper's to close.
    """
    with contextlib.suppress(ImportError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from dagster_pipes import PipesContext, open_dagster_pipes

        context = open_dagster_pipes()
        if isinstance(context, PipesContext):
            context.close = lambda exc=None: None  # noqa: ARG005 - the signature is that of Pipes
