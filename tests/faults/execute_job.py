"""Executes a job, or goes on with a run of it from its failure: `python execute_job.py FOLDER [RUN]`.

The file `worker` of the folder says by which process, for a step to kill it. The variables `PARAMETER` and `VALUE` are
the config of the start step.
"""

import os
import sys
from pathlib import Path

import dagster as dg

sys.path.insert(0, str(Path(__file__).parent.parent))

from support import persistent


def main(folder: str, *parents: str) -> None:
    """Execute the job, or go on with a run of it."""
    Path(folder, "worker").write_text(str(os.getpid()))
    instance = dg.DagsterInstance.get()
    options = dg.ReexecutionOptions.from_failure(parents[0], instance) if parents else None
    config = None if parents else {"ops": {"start": {"config": {os.environ["PARAMETER"]: os.environ["VALUE"]}}}}
    dg.execute_job(persistent(Path(folder, "defs.py")), instance, run_config=config, reexecution_options=options)


if __name__ == "__main__":  # also where the processes of ops import this file
    main(*sys.argv[1:])
