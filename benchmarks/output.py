"""The cost of a step's output: 100 MB through the wrapper, against `python flow.py step` that writes them to a file.

Both run the same step alternately, in one benchmark. Prints the medians of how long its code took to print, how long it
took in all and how much CPU, their ratios, and how much memory the wrapper's supervisor had at most.
"""

from __future__ import annotations

import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from results import keep, parser_of, prepare
from step_cost import StepBenchmark, finish

FLOW_SOURCE = """
import os
import sys
import time

from metaflow import FlowSpec, step

# what is called, with what, and how many bytes it writes
SHAPES = {
    "lines of 100 bytes": (print, "x" * 99, 100),
    "lines of 20 bytes": (print, "x" * 19, 20),
    "1 MB of lines a write": (sys.stdout.buffer.write, (b"x" * 99 + b"\\n") * 10_000, 1_000_000),
    "lines of 10 MB": (print, "x" * 9_999_999, 10_000_000),
    "one line": (lambda text: print(text, end=""), "x" * 1_000_000, 1_000_000),
}


class OutputFlow(FlowSpec):
    @step
    def start(self):
        self.next(self.end)

    @step
    def end(self):
        write, text, size = SHAPES[os.environ["BENCH_SHAPE"]]
        started = time.perf_counter()
        for _ in range(int(os.environ["BENCH_BYTES"]) // size):
            write(text)
        with open(os.environ["BENCH_SECONDS"], "w") as file:
            file.write(str(time.perf_counter() - started))


if __name__ == "__main__":
    OutputFlow()
"""
SHAPES = ("lines of 100 bytes", "lines of 20 bytes", "1 MB of lines a write", "lines of 10 MB", "one line")


def main() -> None:
    """Run the benchmark."""
    parser = parser_of(__doc__, rounds=10)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("shapes", nargs="*", metavar="SHAPE", help=f"by default all of: {', '.join(SHAPES)}")
    options = parser.parse_args()
    prepare()
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        bench = OutputBenchmark(Path(folder), options.megabytes * 1_000_000)
        print(f"{options.megabytes} MB, medians of {options.rounds}: to a file -> through the wrapper")
        print(f"{'':22}{'printing, s':>25}{'all, s':>25}{'all, CPU s':>25}{'peak MB':>9}")
        for shape in options.shapes or SHAPES:
            (*to_file, _), (*wrapped, peak) = bench.medians(shape, options.rounds)
            ratios = [f"{a:7.3f} -> {b:.3f} x{b / a:5.2f}" for a, b in zip(to_file, wrapped, strict=True)]
            print(f"{shape:22}{''.join(f'{ratio:>25}' for ratio in ratios)}{peak:9.0f}", flush=True)
            columns = ("printing_seconds", "wall_seconds", "cpu_seconds")
            figures[shape] = {
                "to a file": dict(zip(columns, to_file, strict=True)),
                "through the wrapper": {**dict(zip(columns, wrapped, strict=True)), "peak_megabytes": peak},
            }
    keep(options.json, "output", {"megabytes": options.megabytes, "shapes": figures})


class OutputBenchmark:
    """Has a step print in both ways.

    Args:
        folder: Where the flow, its datastore and its output are.
        size: How much the step prints, in bytes.
    """

    def __init__(self, folder: Path, size: int):
        self.steps = StepBenchmark(folder, "OutputFlow", FLOW_SOURCE)
        self.seconds = folder / "seconds"
        self.output = folder / "output"
        self.steps.environment.update(BENCH_BYTES=str(size), BENCH_SECONDS=str(self.seconds))

    def medians(self, shape: str, rounds: int) -> list[list[float]]:
        """Of both ways, the medians of what `measure` returns."""
        self.steps.environment["BENCH_SHAPE"] = shape
        measured = {launch: [] for launch in (self.steps.native, self.steps.wrapped)}
        for round_ in range(rounds + 1):
            for launch, values in measured.items():
                value = self.measure(launch)
                if round_:  # the first round warms the caches
                    values.append(value)
        return [[statistics.median(column) for column in zip(*values, strict=True)] for values in measured.values()]

    def measure(self, launch) -> tuple[float, float, float, float]:
        """Seconds of printing, wall seconds and CPU seconds of the step, and its first process's peak memory in MB."""
        finish(launch("start", stdout=subprocess.DEVNULL))
        cpu, started = cpu_seconds(), time.perf_counter()
        with self.output.open("ab") as output:
            process = launch("end", stdout=output)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, peak_megabytes(process.pid))
            time.sleep(0.005)
        wall, cpu = time.perf_counter() - started, cpu_seconds() - cpu
        finish(process)
        assert self.output.stat().st_size == int(self.steps.environment["BENCH_BYTES"])
        self.output.unlink()
        shutil.rmtree(self.steps.flow.root)
        return float(self.seconds.read_text()), wall, cpu, peak


def cpu_seconds() -> float:
    """The CPU seconds of all processes that this one has waited for, and of those that they have."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def peak_megabytes(pid: int) -> float:
    """The most memory that a process has had, in MB; 0 if it has ended, and where there is no /proc."""
    if sys.platform != "linux":
        return 0.0
    status = Path("/proc", str(pid), "status").read_text().splitlines()
    return next((int(line.split()[1]) / 1000 for line in status if line.startswith("VmHWM")), 0.0)


if __name__ == "__main__":
    main()
