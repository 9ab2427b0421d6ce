"""The results of a task's asset checks: read from Metaflow's datastore, and sent through Pipes with its report."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from dagster_pipes import PipesContext

from metaflow_extensions.metaflow_pipes.plugins.checks import STORED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from step_wrapper.launch import Launch

    Results = Mapping[str, Mapping[str, Any]]

# The entry of a result's metadata that says which worker of `num_parallel` has reported it.
WORKER = "pathspec"


def stored_results(stored: Any) -> Results:
    """The results that a task has stored.

    Args:
        stored: What the datastore holds of its attempt (`metaflow.datastore.TaskDataStore`).
    """
    return stored.load_metadata([STORED])[STORED] or {}


def keep_results(datastore: Any, launch: Launch, results: Results) -> None:
    """Store the results of the task that an attempt is a clone of, which Metaflow does not clone.

    Args:
        datastore: The flow's datastore.
        launch: The attempt.
        results: The results.
    """
    if results:
        task = datastore.get_task_datastore(
            launch.run_id, launch.step, launch.task_id, attempt=launch.attempt, mode="w"
        )
        task.save_metadata({STORED: results})


def workers_results(datastore: Any, launch: Launch, control_tasks: Iterable[str]) -> list[Results]:
    """The results that the workers of a control task have stored, each with the worker's pathspec.

    Args:
        datastore: The flow's datastore.
        launch: The attempt of the control task.
        control_tasks: The paths of the control task and its workers, `run_id/step/task_id`.
    """
    found: list[Results] = []
    for path in control_tasks:
        run_id, step, task_id = path.split("/")
        if task_id != launch.task_id:
            results = stored_results(datastore.get_task_datastore(run_id, step, task_id))
            found.append(
                {
                    name: {**result, "metadata": {**result["metadata"], WORKER: f"{launch.flow}/{path}"}}
                    for name, result in results.items()
                }
            )
    return found


def send_results(context: PipesContext, launch: Launch, results: Results) -> None:
    """Report results of the checks of a task's own asset. One that Pipes does not take is left out.

    Args:
        context: The open Pipes session.
        launch: The attempt.
        results: The results.
    """
    # in the step's process, that of the session is the step's own
    report = getattr(PipesContext.report_asset_check, "__wrapped__", PipesContext.report_asset_check)
    for name, result in results.items():
        try:
            report(context, name, result["passed"], result["severity"], result["metadata"], launch.asset_key)
        except Exception as error:  # of any kind: the values are the step's own
            print(f"metaflow-pipes: check {name} could not be reported to Dagster: {error!r}", file=sys.stderr)
