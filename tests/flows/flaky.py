from pathlib import Path

from metaflow import FlowSpec, Parameter, step


class FlakyFlow(FlowSpec):
    """Fails in its middle until a file named `ready` stands beside it."""

    number = Parameter("number", default=1)

    @step
    def start(self):
        if self.number < 0 and not Path("ready").exists():
            raise ValueError("too early")
        self.next(self.middle)

    @step
    def middle(self):
        if not Path("ready").exists():
            raise ValueError("not ready")
        self.doubled = self.number * 2
        self.next(self.end)

    @step
    def end(self):
        self.result = self.doubled + 1


if __name__ == "__main__":
    FlakyFlow()
