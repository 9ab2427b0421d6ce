"""`python -m step_wrapper PATHSPEC`: run the Metaflow task that the Dagster op above describes through Pipes."""

from __future__ import annotations

import sys

from dagster_pipes import PipesContext, PipesEnvVarParamsLoader, open_dagster_pipes

from step_wrapper.launch import Launch
from step_wrapper.supervisor import Supervisor


def main() -> int:
    """Run the task and return the exit code: 0 if the task is done, 1 if it failed, 2 for a wrong call."""
    if len(sys.argv) != 2 or not PipesEnvVarParamsLoader().is_dagster_pipes_process():
        print("usage: python -m step_wrapper FLOW/RUN/STEP/TASK, launched by a Dagster op", file=sys.stderr)
        return 2
    context: PipesContext = open_dagster_pipes()
    launch = Launch.from_pipes(context)
    return Supervisor(launch, context).run()


if __name__ == "__main__":
    sys.exit(main())
