"""`python -m step_wrapper PATHSPEC`: run the Metaflow task that the Dagster op above describes through Pipes."""

from __future__ import annotations

import os
import sys

from step_wrapper.logs import flush_output
from step_wrapper.step import garbage


def main() -> int:
    """Run the task and return the exit code: 0 if the task is done, 1 if it failed, 2 if it was not understood."""
    garbage.collect_seldom()
    from dagster_pipes import PipesEnvVarParamsLoader, open_dagster_pipes

    from step_wrapper import wire
    from step_wrapper.launch import Launch
    from step_wrapper.supervisor import Supervisor

    if len(sys.argv) != 2 or not PipesEnvVarParamsLoader().is_dagster_pipes_process():
        print("usage: python -m step_wrapper FLOW/RUN/STEP/TASK, launched by a Dagster op", file=sys.stderr)
        return 2
    context = open_dagster_pipes()
    try:
        launch = Launch.from_pipes(context)
    except wire.OtherVersionError as error:
        print(f"metaflow-pipes: {error}", file=sys.stderr)
        context.report_custom_message(wire.report_message(None))
        context.close()
        return 2
    return Supervisor(launch, context).run()


if __name__ == "__main__":
    code = main()
    flush_output()
    # there is nothing to tear down, which would take a few milliseconds
    os._exit(code)
