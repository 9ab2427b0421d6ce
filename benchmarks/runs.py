"""Whole runs on Dagster against Metaflow's own `run` with the same number of workers, alternating.

    python benchmarks/runs.py [--rounds 3] [--executor threads,multiprocess] [--json runs.json] [SHAPE...]

On Dagster, a run's time is that from its start event to its end event: without the start-up of the Dagster process,
which is told apart. Metaflow's is that of the whole command. CPU and memory are those of all processes: CPU in
seconds, memory as the highest sum of their proportional shares, in MB, sampled five times a second.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dagster as dg

HEAD = "from metaflow import FlowSpec, step\n\n\nclass BenchFlow(FlowSpec):\n"
TAIL = '\n\nif __name__ == "__main__":\n    BenchFlow()\n'
SAMPLE_SECONDS = 0.2
MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Shape:
    """A flow, how many of its steps may run at the same time, and how many tasks it has."""

    source: str
    workers: int
    tasks: int


@dataclass(frozen=True)
class Measured:
    """One run: its time, that of the whole command, CPU seconds and peak memory of all its processes."""

    run_seconds: float
    command_seconds: float
    cpu_seconds: float
    peak_megabytes: float


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


def _foreach(items: int, body: str = "pass") -> str:
    return _steps(
        ("start", f"self.items = list(range({items}))", 'self.work, foreach="items"'),
        ("work", body, "self.join"),
        ("join", "pass", "self.end"),
        ("end", "pass", ""),
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
SHAPES = {
    "linear 5": Shape(_linear(5), CPUS, 5),
    "split 10": Shape(_split(10), CPUS, 13),
    "foreach 20": Shape(_foreach(20), CPUS, 23),
    "foreach 100": Shape(_foreach(100), CPUS, 103),
    "foreach 500": Shape(_foreach(500), CPUS, 503),
    "nested 10x10": Shape(_nested(10, 10), CPUS, 123),
    "foreach 100, 1 s of sleep": Shape(_foreach(100, "__import__('time').sleep(1)"), 50, 103),
    "100 MB of output": Shape(
        _steps(("start", "print(*(['x' * 99] * 1_000_000), sep='\\n')", "self.end"), ("end", "pass", "")), CPUS, 2
    ),
}


def main() -> None:
    """Measure, print a table, and keep the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", default=list(SHAPES), help="by default all of them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--executors", default="threads,multiprocess")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/runs.json"))
    options = parser.parse_args()
    executors = options.executors.split(",")
    results: dict[str, Any] = {}
    print(f"{'':28} {'metaflow run':>14} " + " ".join(f"{name:>30}" for name in executors))
    for name in options.shapes:
        measured: dict[str, list[Measured]] = {side: [] for side in ("metaflow", *executors)}
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(Path(folder), SHAPES[name])
            for _ in range(options.rounds):
                measured["metaflow"].append(bench.metaflow())
                for executor in executors:
                    measured[executor].append(bench.dagster(executor))
        results[name] = {side: [asdict(run) for run in runs] for side, runs in measured.items()}
        base = _median(measured["metaflow"], "run_seconds")
        cells = [f"{name:28} {base:10.2f} s  "]
        for executor in executors:
            seconds = _median(measured[executor], "run_seconds")
            cpu = _median(measured[executor], "cpu_seconds") / _median(measured["metaflow"], "cpu_seconds")
            memory = _median(measured[executor], "peak_megabytes")
            cells.append(f"{seconds:7.2f} s x{seconds / base:4.2f}  cpu x{cpu:4.2f} {memory:4.0f} MB")
        print(" ".join(cells), flush=True)
    machine = {"cpus": CPUS, "platform": platform.platform(), "python": platform.python_version()}
    options.json.write_text(
        json.dumps({"machine": machine, "rounds": options.rounds, "runs": results}, indent=1) + "\n"
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
        self._home = folder / "home"
        self._home.mkdir()
        (self._home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        (folder / ".metaflow").mkdir()
        (folder / "bench.py").write_text(shape.source)
        user = os.environ.get("METAFLOW_USER", "bench")
        metaflow_home = str(folder / "metaflow_home")
        self._environment = {
            **os.environ,
            "DAGSTER_HOME": str(self._home),
            "METAFLOW_USER": user,
            "METAFLOW_HOME": metaflow_home,
        }

    def metaflow(self) -> Measured:
        """A run by Metaflow's own runner."""
        workers = f"--max-workers={self._shape.workers}"
        seconds, cpu, memory = self._measure("bench.py", "--no-pylint", "run", workers, "--max-num-splits=1000")
        return Measured(seconds, seconds, cpu, memory)

    def dagster(self, executor: str) -> Measured:
        """A run on Dagster."""
        file = f"{executor}.py"
        if not (self._folder / file).exists():
            options = ("--executor", executor, "--max-workers", str(self._shape.workers))
            self._measure("bench.py", "--no-pylint", "dagster", "create", file, *options)
        seconds, cpu, memory = self._measure("-m", "dagster", "job", "execute", "-f", file, "-j", "BenchFlow")
        with dg.DagsterInstance.from_config(str(self._home)) as instance:
            (record,) = instance.get_run_records(limit=1)
        assert record.dagster_run.is_success, f"the run on {executor} did not succeed"
        assert record.start_time is not None
        assert record.end_time is not None
        return Measured(record.end_time - record.start_time, seconds, cpu, memory)

    def _measure(self, *arguments: str) -> tuple[float, float, float]:
        """The seconds, CPU seconds and peak megabytes of a Python command and all its descendants."""
        started = time.monotonic()
        with (self._folder / "output").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self._folder,
                env=self._environment,
                stdout=output,
                stderr=output,
            )
            memory = _Memory(process.pid)
            _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        memory.stop()
        assert os.waitstatus_to_exitcode(status) == 0, (self._folder / "output").read_text()[-3000:]
        return seconds, usage.ru_utime + usage.ru_stime, memory.peak / MEGABYTE


class _Memory:
    """Samples the proportional memory of a process and its descendants, in bytes (Linux)."""

    def __init__(self, pid: int):
        self.peak = 0
        self._pid = pid
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._is_over.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, sum(map(_share, _tree(self._pid))))


def _tree(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_bytes().rpartition(b")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
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
