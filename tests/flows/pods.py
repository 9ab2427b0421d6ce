import os

from metaflow import FlowSpec, Parameter, current, environment, kubernetes, resources, retry, step


class PodsFlow(FlowSpec):
    """Each step runs in the pod of its op."""

    alpha = Parameter("alpha", default=0.5)

    @resources(cpu=2, memory=1000)
    @step
    def start(self):
        self.folder = os.getcwd()
        self.items = [1, 2]
        self.next(self.work, foreach="items")

    @environment(vars={"COLOR": "green"})
    @retry(times=1, minutes_between_retries=0)
    @kubernetes(cpu=1, memory=2000, image="registry.test/train:1", secrets="vault", labels={"team": "science"})
    @step
    def work(self):
        print("working on", self.input)
        if self.input == 2 and current.retry_count == 0:
            raise ValueError("on purpose")
        self.seen = {name: os.environ.get(name) for name in ("COLOR", "KEY", "DAGSTER_RUN_STEP_KEY")}
        self.result = self.input * self.alpha
        self.next(self.join)

    @step
    def join(self, inputs):
        self.results = [i.result for i in inputs]
        self.seen = [i.seen for i in inputs]
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    PodsFlow()
