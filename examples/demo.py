"""The script of `make demo`: compiles TrainFlow, runs its job on an embedded Dagster instance, shows the result."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

HERE = Path(__file__).parent
DAGSTER_HOME = HERE.parent / ".dagster_home"
JOB, DEFINITIONS = "TrainFlow", "trainflow_dagster.py"
INDENT = " " * 4


def main() -> int:
    """Compile, run and report."""
    os.chdir(HERE)
    DAGSTER_HOME.mkdir(exist_ok=True)
    shutil.copy(HERE / "dagster.yaml", DAGSTER_HOME)
    os.environ["DAGSTER_HOME"] = str(DAGSTER_HOME)

    say("python train_flow.py dagster create")
    if not compile_flow():
        return 1

    import dagster as dg

    say(f"running the Dagster job {JOB}: each Metaflow step is an op, launched through Dagster Pipes")
    with dg.DagsterInstance.get() as instance:
        job = dg.build_reconstructable_job("demo", "job", reconstructor_working_directory=str(HERE))
        result = dg.execute_job(job, instance, run_config={"loggers": {"console": {"config": {"log_level": "ERROR"}}}})
        show_steps(result)
    if not result.success:
        return 1
    show_artifacts(f"{JOB}/dagster-{result.run_id}")
    show_where_to_look(f"dagster-{result.run_id}")
    return 0


def compile_flow() -> bool:
    """Run `create`, show its line about the job (all of its output if it fails), and return whether it succeeded."""
    command = [sys.executable, "train_flow.py", "dagster", "create", DEFINITIONS]
    finished = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    result = [line for line in finished.stdout.splitlines() if line.startswith("Compiled flow")]
    print(textwrap.indent("\n".join(result or [finished.stdout]), INDENT), flush=True)
    return finished.returncode == 0


def job():
    """The compiled job, for Dagster's executor processes."""
    import trainflow_dagster

    return trainflow_dagster.TrainFlow


def show_steps(result) -> None:
    """A line for each attempt of a step."""
    import dagster as dg

    kinds = dg.DagsterEventType
    for event in result.all_events:
        step = f"{INDENT}{event.step_key or '':14}"
        if event.event_type == kinds.STEP_OUTPUT:
            metadata = event.event_specific_data.metadata
            seconds, attempt = metadata["duration_seconds"].value, metadata["attempt"].value
            print(f"{step} done in {seconds:.1f} s{f', attempt {attempt}' if attempt else ''}")
        elif event.event_type in (kinds.STEP_UP_FOR_RETRY, kinds.STEP_FAILURE):
            error = event.event_specific_data.error
            while error.cls_name != "Failure" and error.cause is not None:
                error = error.cause
            reason = error.message.strip().partition(" failed: ")[2] or error.message.strip()
            print(f"{step} failed: {reason}")


def show_artifacts(pathspec: str) -> None:
    """The run, as the Metaflow client sees it."""
    import metaflow

    metaflow.namespace(None)
    run = metaflow.Run(pathspec)
    scores = ", ".join(f"{model} {score:.3f}" for model, score in run.data.scores.items())
    say(f'the same run in Metaflow: Run("{pathspec}")')
    print(f"{INDENT}successful: {run.successful}")
    print(f"{INDENT}best model: {run.data.best_model} (accuracy: {scores})")


def show_where_to_look(run: str) -> None:
    """The commands that lead on from here."""
    flow = f"{INDENT}{os.path.relpath(sys.executable)} train_flow.py"
    say("where to look")
    print(f"{INDENT}make ui                        this run in Dagster's UI, and a launchpad for the next one")
    print(f"{INDENT}{f'examples/{DEFINITIONS}':30} the definitions file")
    say("and with Metaflow's own tools, in examples/")
    print(f"{flow} logs {run}/fit_linear")
    print(f"{flow} card view {run}/end")
    say("and in Python, in examples/")
    print(f"{INDENT}from metaflow import Run, namespace")
    print(f"{INDENT}namespace(None)")
    print(f'{INDENT}Run("{JOB}/{run}").data.scores')


def say(text: str) -> None:
    """A headline."""
    print(f"\n=== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
