from metaflow import FlowSpec, step, unbounded_test_foreach_internal
from metaflow.plugins import InternalTestUnboundedForeachInput


class UnboundedFlow(FlowSpec):
    """A foreach whose size only its control task knows, at the top level and in a foreach."""

    @step
    def start(self):
        self.items = InternalTestUnboundedForeachInput([1, 2, 3])
        self.next(self.work, foreach="items")

    @unbounded_test_foreach_internal
    @step
    def work(self):
        self.seen = self.input
        self.next(self.join)

    @step
    def join(self, inputs):
        self.all_seen = sorted(i.seen for i in inputs)
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    UnboundedFlow()
