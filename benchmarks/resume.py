"""A run that resumes another and clones all of its tasks but the last, against Metaflow's own `resume`, alternating.

    python benchmarks/resume.py [--rounds 3] [--tasks 300] [--json FILE]

The origin is a foreach by Metaflow's own runner, whose last step fails. Both clone the same tasks and run that step. On
Dagster, a run's time is that from its start event to its end event; Metaflow's is that of the whole command.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path

from results import keep, parser_of, prepare
from runs import CPUS, MAIN_EXECUTOR, Bench, Measured, Shape, foreach, print_table

from step_wrapper.processes import adopt_orphans

METAFLOW = "metaflow resume"
FAILING = "BENCH_FAILS"
# The start step, and the join; the end step runs.
OTHER_CLONES = 2


def main() -> None:
    """Measure, print a table, and keep the figures as JSON."""
    parser = parser_of(__doc__, rounds=3)
    parser.add_argument("--tasks", type=int, default=300, help="how many tasks are cloned; 300 by default")
    options = parser.parse_args()
    prepare()
    adopt_orphans()
    items = options.tasks - OTHER_CLONES
    last = f"assert {FAILING!r} not in __import__('os').environ"
    measured: dict[str, list[Measured]] = {METAFLOW: [], MAIN_EXECUTOR: []}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), Shape(foreach(items, last=last), CPUS, options.tasks + 1))
        origin = bench.failed_origin(FAILING)
        for _ in range(options.rounds):
            measured[METAFLOW].append(bench.metaflow("resume", "--origin-run-id", origin))
            measured[MAIN_EXECUTOR].append(bench.dagster(MAIN_EXECUTOR, origin))
    print_table(f"resume of {options.tasks} tasks", CPUS, measured)
    keep(options.json, "resume", {side: [asdict(run) for run in runs] for side, runs in measured.items()})


if __name__ == "__main__":
    main()
