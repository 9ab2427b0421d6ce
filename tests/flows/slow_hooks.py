import os
import time
from pathlib import Path

from metaflow import FlowSpec, exit_hook, step


def hang():
    Path("hook_pid").write_text(str(os.getpid()))
    print("hangs now")
    time.sleep(300)


def follow(run):
    with Path("hooks").open("a") as notes:
        notes.write(f"follow {run.pathspec}\n")


@exit_hook(on_success=[hang, follow], options={"timeout": 2})
class SlowHooksFlow(FlowSpec):
    """Has a hook that hangs, and one behind it."""

    @step
    def start(self):
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    SlowHooksFlow()
