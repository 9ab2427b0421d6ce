from metaflow import FlowSpec, step


class SplitFlow(FlowSpec):
    """Splits within a split, and a join whose branches change the same artifact."""

    shared = "class level"

    @step
    def start(self):
        self.base = 1
        self.kept = {"a": [1, 2]}
        self.next(self.right, self.left)

    @step
    def left(self):
        self.who = "left"
        self.next(self.one, self.two)

    @step
    def one(self):
        self.number = self.base + 1
        self.next(self.inner)

    @step
    def two(self):
        self.number = self.base + 2
        self.next(self.inner)

    @step
    def inner(self, inputs):
        self.numbers = sorted(i.number for i in inputs)
        self._order = [i._current_step for i in inputs]
        self.merge_artifacts(inputs, exclude=["number"])
        self.next(self.join)

    @step
    def right(self):
        self.who = "right"
        self.numbers = [self.base]
        self.next(self.join)

    @step
    def join(self, inputs):
        self.names = sorted(i.who for i in inputs)
        self.total = sum(inputs.inner.numbers) + sum(inputs.right.numbers)
        self.kept = inputs[0].kept
        self.next(self.end)

    @step
    def end(self):
        self.result = (self.total, self.names, self.kept, self.shared)


if __name__ == "__main__":
    SplitFlow()
