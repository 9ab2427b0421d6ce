import os
import time
from pathlib import Path

from metaflow import FlowSpec, Parameter, exit_hook, get_namespace, step

NOTES = Path(__file__).parent / "hooks"


def note(name, text):
    """Note that a hook runs: the notes of a hook that runs twice have two lines."""
    with (NOTES).open("a") as notes:
        notes.write(f"{name} {text}\n")


def celebrate(run):
    note("celebrate", f"{run.pathspec} {run.data.answer} {get_namespace()}")
    print("hooray for", run.id)


def count():
    note("count", f"{os.getcwd()} {os.environ.get('GREETING')} {os.environ['METAFLOW_RUNTIME_NAME']}")


def mourn(run):
    note("mourn", run and run.pathspec)
    print("alas")


def break_down(run):
    note("break_down", run and run.pathspec)
    raise ValueError("this hook fails on purpose")


@exit_hook(on_success=[celebrate, "count"], on_error=[break_down])
@exit_hook(on_error=[mourn, "hooked_helpers.lament"], options={"timeout": 20})
class HookedFlow(FlowSpec):
    """Ends as it is told, and has hooks for that."""

    ending = Parameter("ending", default="success")

    @step
    def start(self):
        self.answer = 42
        self.next(self.end)

    @step
    def end(self):
        if self.ending == "failure":
            raise ValueError("the step fails on purpose")
        if self.ending == "waiting":
            Path("pid").write_text(str(os.getpid()))
            time.sleep(300)


if __name__ == "__main__":
    HookedFlow()
