"""A step with retries, a time limit and environment variables of its own."""

import os

from metaflow import FlowSpec, environment, retry, step, timeout


class RetryFlow(FlowSpec):
    """Doubles a number, in a step that Dagster retries and limits in time."""

    @step
    def start(self):
        """Choose the number."""
        self.value = 21
        self.next(self.process)

    @retry(times=3, minutes_between_retries=2)
    @timeout(seconds=120)
    @environment(vars={"MY_VAR": "hello", "OTHER": "world"})
    @step
    def process(self):
        """Double it."""
        print(f"{os.environ['MY_VAR']} {os.environ['OTHER']}")
        self.result = self.value * 2
        self.next(self.end)

    @step
    def end(self):
        """Show the result."""
        print(f"The result is {self.result}.")


if __name__ == "__main__":
    RetryFlow()
