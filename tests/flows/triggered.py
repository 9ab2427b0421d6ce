import os
import time

from metaflow import Config, FlowSpec, Parameter, step


class TriggeredFlow(FlowSpec):
    """Goes on as long as there is a file `wait`."""

    number = Parameter("number", default=0)
    settings = Config("settings", default_value={"depth": 7})

    @step
    def start(self):
        self.seen = (self.number, self.settings.depth)
        self.next(self.end)

    @step
    def end(self):
        while os.path.exists("wait"):
            time.sleep(0.1)


if __name__ == "__main__":
    TriggeredFlow()
