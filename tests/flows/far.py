import os
import time
from pathlib import Path

from metaflow import FlowSpec, Parameter, current, retry, step

# By these files, the tests and the steps tell each other how far they are.
SIGNALS = Path(os.environ.get("SIGNALS", "."))


def signal(name):
    (SIGNALS / name).touch()


def wait_for(name):
    give_up_at = time.monotonic() + 300
    while not (SIGNALS / name).exists():
        assert time.monotonic() < give_up_at
        time.sleep(0.1)


class FarFlow(FlowSpec):
    """Runs on several workers, of which none has this file."""

    waits = Parameter("waits", default="")

    @step
    def start(self):
        if self.waits == "start":
            signal(f"start-{os.getpid()}")
            wait_for("never")
        self.items = [0, 1]
        self.next(self.work, foreach="items")

    @retry(times=2, minutes_between_retries=0)
    @step
    def work(self):
        self.attempts = current.retry_count
        print("item", self.input, "attempt", current.retry_count)
        if self.waits == "work":
            signal(f"work-{self.input}-{os.getpid()}")
            wait_for("go on")
        elif self.input == 0 and current.retry_count == 0:
            raise ValueError("on purpose")
        self.result = 10 * self.input
        self.next(self.join)

    @step
    def join(self, inputs):
        self.results = [i.result for i in inputs]
        self.attempts = [i.attempts for i in inputs]
        self.next(self.end)

    @step
    def end(self):
        print("at the end")
        if not (SIGNALS / "ready").exists():
            raise ValueError("not ready")


if __name__ == "__main__":
    FarFlow()
