"""Whole runs on Dagster against Metaflow's own `run` with the same number of workers, alternating.

    python benchmarks/runs.py [--rounds 3] [--executors threads,multiprocess] [--json FILE] [SHAPE...]

On Dagster, a run's time is that from its start event to its end event; the start-up of the Dagster process is told
apart. Metaflow's is that of the whole command. CPU and memory are those of all processes, that start-up included: CPU
in seconds, memory as the highest sum of their proportional shares, in MB, sampled five times a second.

`materialize` is a run of the flow's assets, by the threads executor as the job's.

The executors other than `threads` are measured with small flows alone, unless they are asked for: Dagster's
multiprocess executor as it comes takes more than a second for each op.
"""

from __future__ import annotations

import bisect
import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import dagster as dg
from results import keep, parser_of, prepare

from metaflow_pipes.names import ORIGIN_RUN_ID_TAG
from metaflow_pipes.process_stat import process_stat
from step_wrapper.processes import adopt_orphans

HEAD = "from metaflow import FlowSpec, step\n\n\nclass BenchFlow(FlowSpec):\n"
TAIL = '\n\nif __name__ == "__main__":\n    BenchFlow()\n'
SAMPLE_SECONDS = 0.2
MEGABYTE = 1 << 20
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Shape:
    """A flow.

    Attributes:
        source: The flow file.
        workers: How many of its steps may run at the same time.
        tasks: How many tasks it has.
        options: More options of `create`.
        needs: The modules that it imports; without one of them, it is left out.
        floor: A definitions file of a job of the same shape whose ops return at once; or None.
    """

    source: str
    workers: int
    tasks: int
    options: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    floor: str | None = None


@dataclass(frozen=True)
class Measured:
    """One run.

    Attributes:
        run_seconds: Its time.
        command_seconds: The time of the whole command.
        cpu_seconds: The CPU of all its processes.
        peak_megabytes: Their memory.
        op_cpu_seconds: The CPU that Dagster's process took for each op, without its start-up; 0 of Metaflow's own.
    """

    run_seconds: float
    command_seconds: float
    cpu_seconds: float
    peak_megabytes: float
    op_cpu_seconds: float = 0.0


def _steps(*steps: tuple[str, str, str]) -> str:
    return (
        HEAD
        + "\n".join(
            f"    @step\n    def {name}(self{', inputs' if 'join' in name else ''}):\n        {body}\n"
            + (f"        self.next({target})\n" if target else "")
            for name, body, target in steps
        )
        + TAIL
    )


def _linear(count: int) -> str:
    names = ["start", *(f"s{number}" for number in range(count - 2)), "end"]
    targets = [f"self.{name}" for name in names[1:]]
    return _steps(*((name, "pass", target) for name, target in zip(names, [*targets, ""], strict=True)))


def _split(ways: int) -> str:
    branches = [f"b{number}" for number in range(ways)]
    return _steps(
        ("start", "pass", ", ".join(f"self.{branch}" for branch in branches)),
        *((branch, "pass", "self.join") for branch in branches),
        ("join", "pass", "self.end"),
        ("end", "pass", ""),
    )


def foreach(items: int, body: str = "pass", last: str = "pass") -> str:
    """A flow with a foreach; `body` and `last` are statements of its tasks and of its last step."""
    return _steps(
        ("start", f"self.items = list(range({items}))", 'self.work, foreach="items"'),
        ("work", body, "self.join"),
        ("join", "pass", "self.end"),
        ("end", last, ""),
    )


def _nested(outer: int, inner: int) -> str:
    return _steps(
        ("start", f"self.items = list(range({outer}))", 'self.outer, foreach="items"'),
        ("outer", f"self.items = list(range({inner}))", 'self.inner, foreach="items"'),
        ("inner", "pass", "self.inner_join"),
        ("inner_join", "pass", "self.outer_join"),
        ("outer_join", "pass", "self.end"),
        ("end", "pass", ""),
    )


CPUS = os.cpu_count() or 1
FLOOR = """import dagster as dg
from metaflow_pipes.runtime import threads

@dg.op(out=dg.DynamicOut(str))
def start():
    for item in range({items}):
        yield dg.DynamicOutput(str(item), mapping_key=str(item))

@dg.op
def work(item: str) -> str:
    return item

@dg.op
def join(items: list[str]) -> str:
    return items[0]

@dg.op
def end(item: str) -> str:
    return item

@dg.job(executor_def=threads({workers}))
def BenchFlow():
    end(join(start().map(work).collect()))
"""
SHAPES = {
    "linear 5": Shape(_linear(5), CPUS, 5),
    "split 10": Shape(_split(10), CPUS, 13),
    "foreach 20": Shape(foreach(20), CPUS, 23),
    "foreach 100": Shape(foreach(100), CPUS, 103, floor=FLOOR.format(items=100, workers=CPUS)),
    "foreach 500": Shape(foreach(500), CPUS, 503),
    "foreach 100, pandas and scikit-learn": Shape(
        "import pandas\nimport sklearn.linear_model\n" + foreach(100),
        CPUS,
        103,
        options=("--warm", "flow"),
        needs=("pandas", "sklearn"),
    ),
    "nested 10x10": Shape(_nested(10, 10), CPUS, 123),
    "foreach 100, 1 s of sleep": Shape(foreach(100, "__import__('time').sleep(1)"), 50, 103),
    "100 MB of output": Shape(
        _steps(("start", "print(*(['x' * 99] * 1_000_000), sep='\\n')", "self.end"), ("end", "pass", "")), CPUS, 2
    ),
}


METAFLOW = "metaflow run"
AT_ONCE = "ops that return at once"
MAIN_EXECUTOR = "threads"
# Not the job, but all assets of the flow, by the same executor.
MATERIALIZE = "materialize"
EXECUTORS = (MAIN_EXECUTOR, MATERIALIZE, "multiprocess", "dagster:multiprocess_executor")
SMALL_TASKS = 25


def main() -> None:
    """Measure, print a table, and keep the figures as JSON."""
    parser = parser_of(__doc__, rounds=3)
    parser.add_argument("shapes", nargs="*", metavar="SHAPE", help=f"by default all of: {', '.join(SHAPES)}")
    parser.add_argument("--executors", help=f"for all shapes; {', '.join(EXECUTORS)} by default")
    options = parser.parse_args()
    prepare()
    adopt_orphans()
    figures = {}
    for name in options.shapes or SHAPES:
        shape = SHAPES[name]
        missing = [module for module in shape.needs if importlib.util.find_spec(module) is None]
        if missing:
            print(f"\n{name}: left out, since {', '.join(missing)} can't be imported (`pip install -e '.[bench]'`)")
            continue
        executors = EXECUTORS if shape.tasks <= SMALL_TASKS else [MAIN_EXECUTOR, MATERIALIZE]
        if options.executors:
            executors = options.executors.split(",")
        floors = [] if shape.floor is None else [AT_ONCE]
        measured: dict[str, list[Measured]] = {side: [] for side in (METAFLOW, *executors, *floors)}
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(Path(folder), shape)
            for _ in range(options.rounds):
                for side, runs in measured.items():
                    runs.append(bench.side(side))
        print_table(name, shape.workers, measured)
        figures[name] = {side: [asdict(run) for run in runs] for side, runs in measured.items()}
    keep(options.json, "runs", figures)


def print_table(title: str, workers: int, measured: dict[str, list[Measured]]) -> None:
    """Print the medians of each side, the others as ratios of the first one, which is Metaflow's own."""
    base = next(iter(measured.values()))
    print(f"\n{title} ({workers} workers, median of {len(base)})")
    print(f"{'':32}{'run':>8}{'ratio':>8}{'start-up':>10}{'CPU':>9}{'ratio':>8}{'peak':>9}{'run process, per op':>21}")
    for side, runs in measured.items():
        print(_row(side, runs, base), flush=True)


def _row(side: str, runs: list[Measured], base: list[Measured]) -> str:
    seconds, cpu, memory = (_median(runs, name) for name in ("run_seconds", "cpu_seconds", "peak_megabytes"))
    row = f"{side:32}{seconds:6.2f} s"
    if runs is base:
        return f"{row}{'':18}{cpu:7.2f} s{'':8}{memory:6.0f} MB"
    start_up = _median(runs, "command_seconds") - seconds
    ratios = seconds / _median(base, "run_seconds"), cpu / _median(base, "cpu_seconds")
    per_op = _median(runs, "op_cpu_seconds")
    return (
        f"{row} {'x':>2}{ratios[0]:5.2f}{start_up:8.2f} s{cpu:7.2f} s {'x':>2}{ratios[1]:5.2f}"
        f"{memory:6.0f} MB{per_op * 1000:14.0f} ms CPU"
    )


class Bench:
    """A flow in a folder, with a Dagster instance of its own.

    Args:
        folder: An empty folder.
        shape: What to run.
    """

    def __init__(self, folder: Path, shape: Shape):
        self._folder = folder
        self._shape = shape
        self.home = folder / "home"
        self.home.mkdir()
        (self.home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        (folder / ".metaflow").mkdir()
        (folder / "bench.py").write_text(shape.source)
        user = os.environ.get("METAFLOW_USER", "bench")
        metaflow_home = str(folder / "metaflow_home")
        self._environment = {
            **os.environ,
            "DAGSTER_HOME": str(self.home),
            "METAFLOW_USER": user,
            "METAFLOW_HOME": metaflow_home,
        }

    def side(self, name: str) -> Measured:
        """A run by Metaflow's own runner, on Dagster by an executor, or of the job whose ops return at once."""
        if name == AT_ONCE:
            assert self._shape.floor is not None
            (self._folder / "floor.py").write_text(self._shape.floor)
            return self._execute("floor.py", "job", "execute", "-j", "BenchFlow")
        return self.metaflow() if name == METAFLOW else self.dagster(name)

    def metaflow(self, *command: str) -> Measured:
        """A run by Metaflow's own runner.

        Args:
            command: The command and options of its own; by default `run`.
        """
        seconds, cpu, samples = self._measure(*self._metaflow_command(*command))
        return Measured(seconds, seconds, cpu, samples.peak_megabytes)

    def failed_origin(self, variable: str) -> str:
        """The id of a run by Metaflow's own runner that fails where a variable is set."""
        command = [sys.executable, *self._metaflow_command("run", "--run-id-file", "origin")]
        environment = {**self._environment, variable: "1"}
        failed = subprocess.run(command, cwd=self._folder, env=environment, capture_output=True, check=False)
        assert failed.returncode, "the run to resume did not fail"
        return (self._folder / "origin").read_text()

    def dagster(self, executor: str, origin: str | None = None) -> Measured:
        """A run on Dagster: of the job by an executor, or of the flow's assets.

        Args:
            executor: The executor, or `MATERIALIZE`.
            origin: The Metaflow run that it resumes, or None.
        """
        command = ["job", "execute", "-j", "BenchFlow"]
        if executor == MATERIALIZE:
            executor, command = MAIN_EXECUTOR, ["asset", "materialize", "--select", "*"]
        file = f"{executor.replace(':', '_')}.py"
        if not (self._folder / file).exists():
            # an executor of Dagster's own has its own limit: the number of CPUs
            limit = () if ":" in executor else ("--max-workers", str(self._shape.workers), *self._shape.options)
            self._measure("bench.py", "--no-pylint", "dagster", "create", file, "--executor", executor, *limit)
        tags = () if origin is None else ("--tags", json.dumps({ORIGIN_RUN_ID_TAG: origin}))
        return self._execute(file, *command, *tags)

    def _execute(self, file: str, *command: str) -> Measured:
        seconds, cpu, samples = self._measure("-m", "dagster", *command, "-f", file)
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            (record,) = instance.get_run_records(limit=1)
        assert record.dagster_run.is_success, f"the run of {file} did not succeed"
        assert record.start_time is not None
        assert record.end_time is not None
        return Measured(
            record.end_time - record.start_time,
            seconds,
            cpu,
            samples.peak_megabytes,
            samples.own_cpu_seconds(record.start_time, record.end_time) / self._shape.tasks,
        )

    def _metaflow_command(self, command: str = "run", *options: str) -> list[str]:
        limits = [f"--max-workers={self._shape.workers}", "--max-num-splits=1000"]
        return ["bench.py", "--no-pylint", command, *limits, *options]

    def _measure(self, *arguments: str) -> tuple[float, float, _Samples]:
        """The seconds and CPU seconds of a Python command and all its descendants, and samples of them."""
        started = time.monotonic()
        servers = _children(os.getpid())
        with (self._folder / "output").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self._folder,
                env=self._environment,
                stdout=output,
                stderr=output,
            )
            samples = _Samples(process.pid)
            _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        samples.stop()
        cpu = usage.ru_utime + usage.ru_stime
        with contextlib.suppress(ChildProcessError):
            # a fork server, with all that it has forked, ends a little later; a server of the benchmark's own does not
            while not _children(os.getpid()) <= servers:
                pid, _, usage = os.wait4(-1, os.WNOHANG)
                cpu += usage.ru_utime + usage.ru_stime
                time.sleep(0 if pid else SAMPLE_SECONDS / 10)
        assert os.waitstatus_to_exitcode(status) == 0, (self._folder / "output").read_text()[-3000:]
        return seconds, cpu, samples


class _Samples:
    """Samples the memory of a process and its descendants, and its own CPU (Linux)."""

    def __init__(self, pid: int):
        self._peak = 0
        self._own_cpu: list[tuple[float, float]] = []
        self._pid = pid
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    @property
    def peak_megabytes(self) -> float:
        return self._peak / MEGABYTE

    def own_cpu_seconds(self, start: float, end: float) -> float:
        """The CPU that the process took itself between two times."""
        return self._own_cpu_until(end) - self._own_cpu_until(start)

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()

    def _own_cpu_until(self, time_: float) -> float:
        index = bisect.bisect(self._own_cpu, (time_, 0.0))
        return self._own_cpu[min(index, len(self._own_cpu) - 1)][1]

    def _sample(self) -> None:
        while not self._is_over.wait(SAMPLE_SECONDS):
            self._peak = max(self._peak, sum(map(_share, _tree(self._pid))))
            stat = process_stat(self._pid)
            if stat is not None:
                self._own_cpu.append((time.time(), stat.cpu_ticks / TICKS))


def _children(of: int) -> set[int]:
    stats = {folder.name: process_stat(folder.name) for folder in Path("/proc").glob("[0-9]*")}
    return {int(pid) for pid, stat in stats.items() if stat is not None and stat.parent == of}


def _tree(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        stat = process_stat(folder.name)
        if stat is not None:
            children.setdefault(stat.parent, []).append(int(folder.name))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def _share(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def _median(runs: list[Measured], field: str) -> float:
    return statistics.median(getattr(run, field) for run in runs)


if __name__ == "__main__":
    main()
