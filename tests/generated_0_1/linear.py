import os

from metaflow import Config, FlowSpec, Parameter, current, environment, project, retry, step, timeout


@project(name="shop")
class LinearFlow(FlowSpec):
    """A split, and what decorators, parameters and configs add to a definitions file."""

    settings = Config("settings", default_value={"depth": 2})
    alpha = Parameter("alpha", default=0.5, help="A factor.")
    columns = Parameter("columns", separator=",", default="age,income")
    rows = Parameter("rows", type=int)

    @step
    def start(self):
        """Begins."""
        self.scaled = self.alpha * self.settings.depth
        self.next(self.flaky, self.type)

    @environment(vars={"OMP_NUM_THREADS": "4"})
    @retry(times=1, minutes_between_retries=0)
    @timeout(minutes=5)
    @step
    def flaky(self):
        if current.retry_count == 0:
            raise ValueError("at first")
        self.seen = (os.environ["OMP_NUM_THREADS"], os.environ["REGION"])
        self.next(self.join)

    @step
    def type(self):
        self.branch = current.branch_name
        self.next(self.join)

    @step
    def join(self, inputs):
        self.result = (inputs.type.scaled, inputs.flaky.seen, inputs.type.branch, self.columns, self.rows)
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    LinearFlow()
