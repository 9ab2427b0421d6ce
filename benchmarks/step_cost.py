"""CPU of one step's processes, all included, against Metaflow's own `python flow.py step`.

All run the same steps of the same flow alternately, in one benchmark: Metaflow's own, steps that are started by
themselves, and steps that are forked from a warm process, with what that takes for each of them. Prints the medians
and their ratios; of forked steps the mean of CPU, which the kernel counts in hundredths of a second.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from dagster_pipes import encode_param
from results import keep, parser_of, prepare

from metaflow_pipes.run_options import RunOptions
from metaflow_pipes.runtime import MetaflowFlow
from metaflow_pipes.runtime.step_process import ForkedProcess, StepLaunch
from metaflow_pipes.runtime.warm import WarmProcesses
from step_wrapper.wire import Request

# Of /proc/<pid>/stat, counted behind the name: CPU of the process and of its children, by user and system.
CPU_FIELDS = slice(14 - 3, 18 - 3)

FLOW_SOURCE = """
from metaflow import FlowSpec, step


class EmptyFlow(FlowSpec):
    @step
    def start(self):
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    EmptyFlow()
"""


def main() -> None:
    """Run the benchmark."""
    options = parser_of(__doc__, rounds=30).parse_args()
    rounds = options.rounds
    prepare()
    with tempfile.TemporaryDirectory() as folder:
        bench = StepBenchmark(Path(folder), "EmptyFlow", FLOW_SOURCE)
        launchers = {
            "start: python flow.py step": lambda: finish(bench.native("start", stdout=subprocess.DEVNULL)),
            "start: metaflow-pipes": lambda: finish(bench.wrapped("start")),
            "end: python flow.py step": lambda: finish(bench.native("end", stdout=subprocess.DEVNULL)),
            "end: metaflow-pipes": lambda: finish(bench.wrapped("end")),
        }
        costs = {name: [] for name in launchers}
        forked = {"start: metaflow-pipes, forked": [], "end: metaflow-pipes, forked": []}
        with Forking(bench) as forking:
            for round_ in range(rounds + 1):
                for name, launch in launchers.items():
                    cost = measure(launch)
                    if round_:  # the first round warms the caches
                        costs[name].append(cost)
                for name, values in forked.items():
                    cost = forking.measure(name.partition(":")[0])
                    if round_:
                        values.append(cost)
    print(f"{'':34}{'CPU s':>8}{'wall s':>8}   (medians of {rounds})")
    medians = {}
    for name, values in costs.items():
        medians[name] = [statistics.median(column) for column in zip(*values, strict=True)]
        print(f"{name:34}{medians[name][0]:8.3f}{medians[name][1]:8.3f}")
    for name, values in forked.items():
        cpu, wall = zip(*values, strict=True)
        medians[name] = [statistics.mean(cpu), statistics.median(wall)]
        print(f"{name:34}{medians[name][0]:8.3f}{medians[name][1]:8.3f}")
    for step in ("start", "end"):
        base = medians[f"{step}: python flow.py step"][0]
        ratios = [medians[f"{step}: metaflow-pipes{way}"][0] / base for way in ("", ", forked")]
        print(f"{step}: metaflow-pipes takes x{ratios[0]:.2f} the CPU, and x{ratios[1]:.2f} where it is forked")
    columns = ("cpu_seconds", "wall_seconds")
    keep(options.json, "step_cost", {name: dict(zip(columns, row, strict=True)) for name, row in medians.items()})


def measure(launch) -> tuple[float, float]:
    """CPU seconds and wall seconds of a subprocess and all that it waited for."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    launch()
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def cpu_seconds_of_children() -> float:
    """CPU seconds of the children of this process that run, and of all that they have waited for."""
    total = 0
    for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split():
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        total += sum(map(int, fields[CPU_FIELDS]))
    return total / os.sysconf("SC_CLK_TCK")


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a step, which is to be a success."""
    assert process.wait() == 0


class Forking:
    """Forks steps from a warm process, while the context is open.

    Args:
        bench: What is forked.
    """

    def __init__(self, bench: StepBenchmark):
        self._bench = bench
        self._processes = WarmProcesses("metaflow")

    def __enter__(self) -> Forking:
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.close()

    def measure(self, step: str) -> tuple[float, float]:
        """CPU seconds of a step, of all its processes and of the warm one for it, and wall seconds."""
        command, environment = self._bench.launch(step)
        lifeline, stdin = socket.socketpair()
        with lifeline, stdin, open(os.devnull, "wb") as output:  # noqa: PTH123
            launch = StepLaunch(
                command, environment, str(self._bench.folder), output.fileno(), output.fileno(), stdin.fileno()
            )
            before, started = cpu_seconds_of_children(), time.perf_counter()
            process = self._fork(launch)
            assert process.wait() == 0
            wall = time.perf_counter() - started
            process.close()
        time.sleep(0.05)  # until it is reaped
        return cpu_seconds_of_children() - before, wall

    def _fork(self, launch: StepLaunch) -> ForkedProcess:
        process = self._processes.fork(launch, "local", str(self._bench.flow.path), print)
        assert process is not None
        return process


class StepBenchmark:
    """Launches the start and the end step of a flow in both ways.

    Args:
        folder: Where the flow and its datastore are.
        name: The flow's name.
        source: The flow file.
    """

    def __init__(self, folder: Path, name: str, source: str):
        self.folder = folder
        file = folder / "flow.py"
        file.write_text(source)
        self.flow = MetaflowFlow(
            name=name,
            file=str(file),
            definitions_file=str(folder / "defs.py"),
            working_directory=str(folder),
            fingerprint=fingerprint(file),
            top_level_args=["--metadata=local", "--environment=local", "--datastore=local"],
            datastore="local",
            datastore_root=str(folder / ".metaflow"),
            user="bench",
        )
        self.environment = {**os.environ, **self.flow.environment({}), "PYTHONUNBUFFERED": "x"}
        self.run_ids = {"native": "", "wrapped": ""}

    def native(self, step: str, **options) -> subprocess.Popen[bytes]:
        """Launch a step as Metaflow's runner does, with options for its process."""
        command = self._command("native", step)
        command.remove("--with=dagster_internal")
        if step == "start":
            init = [
                *command[: command.index("step")],
                "init",
                *self.flow.init_command(self.run_ids["native"], "p", {}, RunOptions()),
            ]
            # untimed in the result: a process that has been waited for counts, so another one waits for it
            subprocess.run(
                [sys.executable, "-c", DETACHED, json.dumps([sys.executable, *init])],
                env=self.environment,
                check=True,
            )
        return subprocess.Popen([sys.executable, *command], env=self.environment, cwd=self.folder, **options)

    def wrapped(self, step: str, wrapper=("-m", "step_wrapper"), **options) -> subprocess.Popen[bytes]:
        """Launch a step as an op does, maybe with something in place of the wrapper, with options for its process."""
        command, environment = self.launch(step, wrapper)
        # standard input stays open: its end would tell the wrapper that the op has died
        return subprocess.Popen(command, env=environment, cwd=self.folder, stdin=subprocess.PIPE, **options)

    def launch(self, step: str, wrapper=("-m", "step_wrapper")) -> tuple[list[str], dict[str, str]]:
        """The command and the environment by which an op launches a step."""
        command = self._command("wrapped", step)
        run_id = self.run_ids["wrapped"]
        request = Request(
            flow=self.flow.name, run_id=run_id, step=step, task_id=step, attempt=0, command=command,
            init=self.flow.init_command(run_id, "p", {}, RunOptions()) if step == "start" else None, configs={},
            datastore="local", datastore_root=self.flow.root, timeout_seconds=None, log_level=30, indices=[],
            iteration=None, done_as=[], asset_key=f"EmptyFlow/{step}", ended_with=None, resumption=None,
            system_tags=[], triggers=[], blocking_checks=[], dagster_run_id=run_id, dagster_job_name="Benchmark",
            remote_env={}, is_own_pod=False, job=None,
            dagster_step_key=step, run_limit_seconds=None, run_seconds_left=None,
        )  # fmt: skip
        messages = self.folder / "messages"
        messages.write_text("")
        context = self.folder / "context"
        context.write_text(json.dumps(pipes_context(request.as_extras())))
        environment = {
            **self.environment,
            "DAGSTER_PIPES_CONTEXT": encode_param({"path": str(context)}),
            "DAGSTER_PIPES_MESSAGES": encode_param({"path": str(messages)}),
        }
        return [sys.executable, *wrapper, f"{self.flow.name}/{run_id}/{step}/{step}"], environment

    def _command(self, kind: str, step: str) -> list[str]:
        if step == "start":
            self.run_ids[kind] = f"{kind}-{uuid.uuid4()}"
        run_id = self.run_ids[kind]
        inputs = [f"{run_id}/_parameters/p"] if step == "start" else [f"{run_id}/start/start"]
        return self.flow.step_command(step, run_id, step, inputs, 0, 0, RunOptions())


DETACHED = """
import json, os, subprocess, sys
reader, writer = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        code = subprocess.run(json.loads(sys.argv[1]), capture_output=True).returncode
        os.write(writer, bytes([code]))
    os._exit(0)
os.close(writer)
sys.exit(os.read(reader, 1)[0])
"""


def fingerprint(file: Path) -> str:
    """The fingerprint of a flow file."""
    import hashlib

    return f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"


def pipes_context(extras: dict) -> dict:
    """The context that Dagster Pipes hands to a process."""
    return {
        "asset_keys": None, "code_version_by_asset_key": None, "provenance_by_asset_key": None,
        "partition_key": None, "partition_key_range": None, "partition_time_window": None,
        "run_id": str(uuid.uuid4()), "job_name": "Benchmark", "retry_number": 0, "extras": extras,
    }  # fmt: skip


if __name__ == "__main__":
    main()
