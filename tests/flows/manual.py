"""The flow that the manual's commands are about."""

from metaflow import FlowSpec, IncludeFile, JSONType, Parameter, schedule, step


@schedule(daily=True)
class TrainFlow(FlowSpec):
    date = Parameter("date", default="2026-01-05")
    region = Parameter("region", default="eu")
    rows = Parameter("rows", type=int, default=10)
    threshold = Parameter("threshold", type=float, default=0.5)
    learning_rate = Parameter("learning-rate", default=0.1)
    settings = Parameter("settings", type=JSONType, default="{}")
    columns = Parameter("columns", default="age", separator=",")
    data = IncludeFile("data", required=False, default=None)

    @step
    def start(self):
        self.next(self.train)

    @step
    def train(self):
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    TrainFlow()
