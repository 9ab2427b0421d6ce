"""The time of an empty step by its parts, in milliseconds: in its op, and in the process that the op waits for.

The op's part is read from the event log of a foreach with one worker. The process is the wrapper itself, launched as an
op launches it, with marks set where one part of its work follows another.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import dagster as dg
from results import keep, parser_of, prepare
from runs import Bench, Shape, foreach
from step_cost import FLOW_SOURCE, StepBenchmark, finish

MARKS_VARIABLE = "BENCH_MARKS"
MARKED_WRAPPER = """
import os
import time


def mark(part):
    with open(os.environ["BENCH_MARKS"], "a") as file:
        file.write(f"{time.monotonic()} {part}\\n")


def marking(owner, name, before="", after=""):
    function = getattr(owner, name)

    def marked(*arguments):
        if before:
            mark(before)
        result = function(*arguments)
        if after:
            mark(after)
        return result

    setattr(owner, name, marked)


mark("interpreter: start")
from step_wrapper import __main__
from step_wrapper.step import garbage

garbage.collect_seldom()
import dagster_pipes

from step_wrapper import control, launch, supervisor
from step_wrapper.step import running

mark("supervisor: imports")
marking(supervisor.Supervisor, "_fork_step", before="supervisor: Pipes session, signals, folder for the logs")
marking(supervisor.Supervisor, "_on_step_ends", after="supervisor: processes left behind, rest of the output")
become_step = supervisor.Supervisor._become_step


def become_marked_step(*arguments):
    mark("fork")
    from step_wrapper.step import process

    run_flow = process._run_flow

    def run_marked_flow(arguments):
        mark("step: the wrapper's imports")
        import metaflow.cli

        mark("step: Metaflow's imports")
        return run_flow(arguments)

    process._run_flow = run_marked_flow
    tell = running.RunningTask.tell
    parts = {
        control.CODE_STARTS: "step: Metaflow's command line, the task's registration",
        control.CODE_ENDS: "step: the user's code",
        control.STEP_ENDS: "step: artifacts stored, exit handlers",
        control.REPORTED: "step: logs stored, report sent",
    }

    def tell_marked(task, message):
        if message in parts:
            mark(parts[message])
        tell(task, message)

    running.RunningTask.tell = tell_marked
    become_step(*arguments)


supervisor.Supervisor._become_step = become_marked_step
code = __main__.main()
os._exit(code)
"""


def main() -> None:
    """Run the benchmark."""
    options = parser_of(__doc__, rounds=20).parse_args()
    prepare()
    op, process = profile_op(options.rounds), profile_process(options.rounds)
    for title, parts in (("op", op), ("process", process)):
        print(f"\n{title}")
        for part, milliseconds in parts.items():
            print(f"{milliseconds:8.1f} ms  {part}")
    print(f"{sum(process.values()):8.1f} ms  in all")
    keep(options.json, "step_profile", {"op": op, "process": process})


def profile_process(rounds: int) -> dict[str, float]:
    """The parts of the process's time, each with the median of its milliseconds."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        marks = Path(folder, "marks")
        bench = StepBenchmark(Path(folder), "EmptyFlow", FLOW_SOURCE)
        bench.environment[MARKS_VARIABLE] = str(marks)
        for round_ in range(rounds + 1):
            finish(bench.wrapped("start"))
            marks.write_text("")
            before = time.monotonic()
            finish(bench.wrapped("end", wrapper=("-c", MARKED_WRAPPER)))
            lines = [line.split(" ", 1) for line in marks.read_text().splitlines()]
            for time_, part in [*lines, (str(time.monotonic()), "supervisor: end")]:
                if round_:  # the first round warms the caches
                    found.setdefault(part, []).append((float(time_) - before) * 1000)
                before = float(time_)
    return {part: statistics.median(values) for part, values in found.items()}


def profile_op(rounds: int) -> dict[str, float]:
    """The parts of an op's time, each with the median of its milliseconds; one op after another, one for each round."""
    items = max(rounds, 2)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), Shape(foreach(items), 1, items + 3))
        bench.dagster("threads")
        with dg.DagsterInstance.from_config(str(bench.home)) as instance:
            (run,) = instance.get_runs(limit=1)
            entries = instance.all_logs(run.run_id)
    begins, launches, reports, ends = ({} for _ in range(4))
    for entry in entries:
        key, event = entry.step_key or "", entry.dagster_event
        if not key.startswith("work["):
            continue
        if event is not None and event.event_type == dg.DagsterEventType.STEP_START:
            begins[key] = entry.timestamp
        elif event is not None and event.event_type == dg.DagsterEventType.STEP_SUCCESS:
            ends[key] = entry.timestamp
        elif entry.user_message.partition("\n")[0].endswith(" starts."):
            launches[key] = entry.timestamp
        elif " finished after " in entry.user_message:
            reports[key] = entry.timestamp
    keys = list(begins)
    return {
        part: statistics.median(later - earlier for earlier, later in zip(times, others, strict=True)) * 1000
        for part, times, others in (
            ("from its start event to the launch: input loaded, events", begins.values(), launches.values()),
            ("the process, and reading its report", launches.values(), reports.values()),
            (
                "from there until the next op has its start event",
                list(reports.values())[:-1],
                list(begins.values())[1:],
            ),
            ("and until its own end event, beside the next op", reports.values(), (ends[key] for key in keys)),
        )
    }


if __name__ == "__main__":
    main()
