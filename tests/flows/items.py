import os
import signal
import time
from pathlib import Path

from metaflow import FlowSpec, Parameter, step


class ItemsFlow(FlowSpec):
    """Items that note when they run. Some end the process of the run, or wait, until a file `ready` says otherwise."""

    ends = Parameter("ends", default="", help="the items that end the run, with commas between them")

    @step
    def start(self):
        self.numbers = list(range(8))
        self.next(self.work, foreach="numbers")

    @step
    def work(self):
        with Path("notes").open("a") as notes:
            notes.write(f"{self.input} ")
        self.number = self.input
        # `ends` is an artifact: a re-execution has it too, and goes on behind the item that stands in `ready`
        passed = int(Path("ready").read_text()) if Path("ready").exists() else -1
        if str(self.input) in self.ends.split(",") and self.input > passed:
            if Path("worker").exists():
                os.kill(int(Path("worker").read_text()), signal.SIGKILL)
            Path("waits").touch()
            time.sleep(120)
        self.next(self.double)

    @step
    def double(self):
        self.twice = self.number * 2
        self.next(self.join)

    @step
    def join(self, inputs):
        self.doubles = [i.twice for i in inputs]
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    ItemsFlow()
