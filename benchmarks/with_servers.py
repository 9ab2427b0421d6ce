"""Whole runs with servers, against Metaflow's own with the same: artifacts on S3, Dagster on Postgres.

    python benchmarks/with_servers.py [--rounds 3] [--json FILE] [s3 | resume | postgres]...

`s3` is a foreach of 20 with 2 workers, against `run --datastore s3`; `resume` one of 100 tasks that clones all but its
last, by the time for each clone; `postgres` a foreach of 100 against `run`, with Dagster's storage in Postgres and in
SQLite. S3 is moto's server, and Postgres an installed one: `pip install -e '.[dev]'` and Debian's `postgresql`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from results import PROJECT, keep, parser_of, prepare
from runs import MAIN_EXECUTOR, Bench, Measured, Shape, foreach, print_table

sys.path.insert(0, str(PROJECT / "tests"))
from servers.conftest import s3_server
from servers.postgres import running_postgres

from step_wrapper.processes import adopt_orphans

BENCHMARKS = ("s3", "resume", "postgres")
WORKERS = 2
METAFLOW, S3, POSTGRES, SQLITE = "metaflow", "S3", "Postgres", "SQLite"
FAILING = "BENCH_FAILS"

Sides = dict[str, list[Measured]]


def main() -> None:
    """Measure, print tables, and keep the figures as JSON."""
    parser = parser_of(__doc__, rounds=3)
    parser.add_argument("benchmarks", nargs="*", metavar="BENCHMARK", help=f"by default all: {', '.join(BENCHMARKS)}")
    options = parser.parse_args()
    prepare()
    adopt_orphans()
    figures = {}
    for name in options.benchmarks or BENCHMARKS:
        measure = {"s3": s3, "resume": resume, "postgres": postgres}[name]
        with tempfile.TemporaryDirectory() as folder:
            measured = measure(Path(folder), options.rounds)
        print_table(name, WORKERS, measured)
        figures[name] = {side: [asdict(run) for run in runs] for side, runs in measured.items()}
        # each of them: the last one may find no Postgres
        keep(options.json, "servers", figures)


def s3(folder: Path, rounds: int) -> Sides:
    """A foreach of 20 on S3: by Metaflow's own runner, and on Dagster."""
    with ExitStack() as stack:
        _use_s3(stack, folder)
        bench = _bench(folder / "bench", Shape(foreach(20), WORKERS, 23))
        measured: Sides = {METAFLOW: [], S3: []}
        for _ in range(rounds):
            measured[METAFLOW].append(bench.metaflow())
            measured[S3].append(bench.dagster(MAIN_EXECUTOR))
    return measured


def resume(folder: Path, rounds: int) -> Sides:
    """A run of 100 tasks on S3 whose last one failed, resumed: by Metaflow's own `resume`, and on Dagster."""
    last = f"assert {FAILING!r} not in __import__('os').environ"
    with ExitStack() as stack:
        _use_s3(stack, folder)
        # the start step, the join and the end are the other three
        bench = _bench(folder / "bench", Shape(foreach(97, last=last), WORKERS, 100))
        origin = bench.failed_origin(FAILING)
        measured: Sides = {METAFLOW: [], S3: []}
        for _ in range(rounds):
            measured[METAFLOW].append(bench.metaflow("resume", "--origin-run-id", origin))
            measured[S3].append(bench.dagster(MAIN_EXECUTOR, origin))
    return measured


def postgres(folder: Path, rounds: int) -> Sides:
    """A foreach of 100: by Metaflow's own runner, and with Dagster's storage in Postgres and in SQLite."""
    shape = Shape(foreach(100), WORKERS, 103)
    with running_postgres() as server:
        of_postgres, of_sqlite = (_bench(folder / side, shape) for side in (POSTGRES, SQLITE))
        config = of_postgres.home / "dagster.yaml"
        config.write_text(f"{config.read_text()}storage: {{postgres: {{postgres_url: '{server.url}'}}}}\n")
        measured: Sides = {METAFLOW: [], POSTGRES: [], SQLITE: []}
        for _ in range(rounds):
            measured[METAFLOW].append(of_sqlite.metaflow())
            measured[POSTGRES].append(of_postgres.dagster(MAIN_EXECUTOR))
            measured[SQLITE].append(of_sqlite.dagster(MAIN_EXECUTOR))
    return measured


def _bench(folder: Path, shape: Shape) -> Bench:
    folder.mkdir()
    return Bench(folder, shape)


def _use_s3(stack: ExitStack, folder: Path) -> None:
    """Let all that is run from now on have its artifacts on a server of its own."""
    server = stack.enter_context(s3_server(folder))
    os.environ.update({**server.environment, "METAFLOW_DEFAULT_DATASTORE": "s3"})
    stack.callback(lambda: [os.environ.pop(name) for name in (*server.environment, "METAFLOW_DEFAULT_DATASTORE")])


if __name__ == "__main__":
    main()
