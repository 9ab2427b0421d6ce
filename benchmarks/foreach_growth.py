"""Time per task of a foreach as it grows, against Metaflow's own `run` with one worker, in one benchmark.

Each size runs once on Dagster (in one process, one task at a time) and once by Metaflow, one after the other.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FLOW_SOURCE = """
from metaflow import FlowSpec, Parameter, step


class GrowthFlow(FlowSpec):
    size = Parameter("size", type=int, default=10)

    @step
    def start(self):
        self.items = list(range(self.size))
        self.next(self.work, foreach="items")

    @step
    def work(self):
        self.square = self.input ** 2
        self.next(self.join)

    @step
    def join(self, inputs):
        self.total = sum(i.square for i in inputs)
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    GrowthFlow()
"""


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000])
    sizes = parser.parse_args().sizes
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path(".metaflow").mkdir()
        Path("growth.py").write_text(FLOW_SOURCE)
        run([sys.executable, "growth.py", "--quiet", "dagster", "create", "defs.py", "--executor", "in_process"])
        job = load(Path("defs.py"))
        print(f"{'tasks':>6}{'dagster s/task':>16}{'metaflow s/task':>17}{'ratio':>7}")
        for size in sizes:
            seconds = [on_dagster(job, size) / size, by_metaflow(size) / size]
            print(f"{size:>6}{seconds[0]:>16.3f}{seconds[1]:>17.3f}{seconds[0] / seconds[1]:>7.2f}", flush=True)


def on_dagster(job, size: int) -> float:
    """Seconds of a run on Dagster."""
    started = time.perf_counter()
    config = {
        "ops": {"start": {"config": {"size": size}}},
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
    }
    assert job.execute_in_process(run_config=config).success
    return time.perf_counter() - started


def by_metaflow(size: int) -> float:
    """Seconds of a run by Metaflow."""
    started = time.perf_counter()
    options = ["--max-workers", "1", "--max-num-splits", str(size), "--size", str(size)]
    run([sys.executable, "growth.py", "--quiet", "--no-pylint", "run", *options])
    return time.perf_counter() - started


def run(command: list[str]) -> None:
    """Run a command to its end, in silence."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def load(definitions: Path):
    """The job of a definitions file."""
    logging.disable(logging.INFO)
    spec = importlib.util.spec_from_file_location("defs", definitions)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.GrowthFlow


if __name__ == "__main__":
    main()
