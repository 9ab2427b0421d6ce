import os
import time
from pathlib import Path

from metaflow import FlowSpec, step


class SlowFlow(FlowSpec):
    """Waits for ever, and says in the file `pid` which process does."""

    @step
    def start(self):
        self.next(self.wait)

    @step
    def wait(self):
        Path("pid").write_text(str(os.getpid()))
        time.sleep(300)
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    SlowFlow()
