"""Exit hooks and messages of a run of the shell that has ended: no daemon needs to be there for them.

    python -m metaflow_pipes.runs.ended RUN_ID DEFINITIONS_FILE

is for a run whose watching process was killed. `DAGSTER_HOME` names the instance.
"""

from __future__ import annotations

import sys

import dagster as dg

from metaflow_pipes.errors import DeploymentError
from metaflow_pipes.runs.loading import load_definitions
from metaflow_pipes.runtime.automation.ended_runs import follow_ups_of
from metaflow_pipes.runtime.automation.follow_ups import follow_up_on


def follow_up(instance: dg.DagsterInstance, run_id: str, definitions_file: str) -> None:
    """Do all that the definitions file has to be done after a run, unless a sensor does it.

    Args:
        instance: The Dagster instance.
        run_id: The Dagster run, which has ended.
        definitions_file: The absolute path of the definitions file, as it is by now.
    """
    try:
        sensors = load_definitions(definitions_file).sensors or ()
    except DeploymentError as error:
        run = instance.get_run_by_id(run_id)
        if run is not None:
            instance.report_engine_event(f"The flow's exit hooks and notifications are left out. {error}", run)
        return
    for one in follow_ups_of(sensors):
        follow_up_on(instance, run_id, one)


if __name__ == "__main__":
    with dg.DagsterInstance.get() as instance:
        follow_up(instance, *sys.argv[1:3])
