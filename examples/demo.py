"""What `make demo` runs: compiles TrainFlow, runs its job on an embedded Dagster instance, shows the result."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
DAGSTER_HOME = HERE.parent / ".dagster_home"
JOB, DEFINITIONS = "TrainFlow", "trainflow_dagster.py"


def main() -> int:
    """Compile, run and report."""
    os.chdir(HERE)
    DAGSTER_HOME.mkdir(exist_ok=True)
    os.environ["DAGSTER_HOME"] = str(DAGSTER_HOME)

    say("python train_flow.py dagster create")
    subprocess.run([sys.executable, "train_flow.py", "dagster", "create", DEFINITIONS], check=True)

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


def job():
    """The compiled job, for Dagster's executor processes."""
    import trainflow_dagster

    return trainflow_dagster.TrainFlow


def show_steps(result) -> None:
    """A line for each attempt of a step."""
    import dagster as dg

    kinds = dg.DagsterEventType
    for event in result.all_events:
        if event.event_type == kinds.STEP_OUTPUT:
            metadata = event.event_specific_data.metadata
            seconds, attempt = metadata["duration_seconds"].value, metadata["attempt"].value
            print(f"    {event.step_key:14} done in {seconds:4.1f} s, attempt {attempt}: {metadata['pathspec'].value}")
        elif event.event_type in (kinds.STEP_UP_FOR_RETRY, kinds.STEP_FAILURE):
            error = event.event_specific_data.error
            while error.cls_name != "Failure" and error.cause is not None:
                error = error.cause
            reason = error.message.partition("Failure: ")[2].strip()
            again = ", is tried again" if event.event_type == kinds.STEP_UP_FOR_RETRY else ""
            print(f"    {event.step_key:14} failed{again}: {reason}")


def show_artifacts(pathspec: str) -> None:
    """The run, as the Metaflow client sees it."""
    import metaflow

    metaflow.namespace(None)
    run = metaflow.Run(pathspec)
    say(f'the same run in Metaflow: Run("{pathspec}")')
    print(f"    successful: {run.successful}")
    print(f"    best model: {run.data.best_model}, accuracy {run.data.best_score:.3f} of {run.data.scores}")


def show_where_to_look(run: str) -> None:
    """The commands that lead on from here."""
    python = os.path.relpath(sys.executable)
    say("where to look")
    print("    make ui      the run in the Dagster UI, with its logs and metadata, and a launchpad for the next one")
    print(f"    examples/{DEFINITIONS}      the definitions file")
    say("and with Metaflow's own tools, in examples/")
    print(f"    {python} train_flow.py logs {run}/fit_linear")
    print(f"    {python} train_flow.py card get {run}/end card.html")
    code = f"import metaflow as m; m.namespace(None); print(m.Run('{JOB}/{run}').data.scores)"
    print(f'    {python} -c "{code}"')


def say(text: str) -> None:
    """A headline."""
    print(f"\n=== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
