"""`python -m step_wrapper PATHSPEC`: run the Metaflow task that the Dagster op above describes through Pipes.

`python -m step_wrapper --warm OPTIONS PADDING` is the process that such processes are forked from, one forked as
`python -m step_wrapper --clones` clones one task after another, `python -m step_wrapper --heartbeat OPTIONS` sends the
heartbeats of a run, and `python -m step_wrapper --fetch REQUEST` fetches the code package of a flow.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from step_wrapper import wire
from step_wrapper.logs import flush_output
from step_wrapper.step import garbage

if TYPE_CHECKING:
    import socket


def main(channel: socket.socket | None = None) -> int:
    """Run the task and return the exit code: 0 if the task is done, 1 if it failed, 2 if it was not understood.

    Args:
        channel: The socket by which the run's process hears of this process, if that is a forked one.
    """
    if len(sys.argv) > 1 and sys.argv[1].startswith("--"):
        return _accompany(*sys.argv[1:])
    garbage.collect_seldom()
    from dagster_pipes import PipesEnvVarParamsLoader, open_dagster_pipes

    from step_wrapper.launch import Launch
    from step_wrapper.supervisor import Supervisor

    if len(sys.argv) != 2 or not PipesEnvVarParamsLoader().is_dagster_pipes_process():
        return _refuse()
    context = open_dagster_pipes()
    try:
        launch = Launch.from_pipes(context)
    except wire.OtherVersionError as error:
        print(f"metaflow-pipes: {error}", file=sys.stderr)
        context.report_custom_message(wire.report_message(None))
        context.close()
        return 2
    return Supervisor(launch, context, channel).run()


def _accompany(role: str, *options: str) -> int:
    """Be a companion of a run, and return the exit code.

    Args:
        role: The argument that says which one.
        options: Those behind it.
    """
    from step_wrapper import companions

    if role == companions.CLONES and not options:
        from step_wrapper.cloning import serve

        return serve()
    if role == companions.HEARTBEAT:
        from step_wrapper.heartbeat import serve

        return serve()
    if role == companions.FETCHES:
        from step_wrapper.fetching import answer

        return answer(*options)
    return _refuse()


def _refuse() -> int:
    print("usage: python -m step_wrapper FLOW/RUN/STEP/TASK, launched by a Dagster op", file=sys.stderr)
    return 2


if __name__ == "__main__":
    if sys.argv[1:2] == ["--warm"]:
        from step_wrapper.warm import serve

        serve(main)
        code = 0
    else:
        code = main()
    flush_output()
    # there is nothing to tear down, which would take a few milliseconds
    os._exit(code)
