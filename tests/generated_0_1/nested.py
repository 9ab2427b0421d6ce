from metaflow import FlowSpec, step


class NestedFlow(FlowSpec):
    """A foreach within a foreach, with a split and a switch: each kind of helper op."""

    @step
    def start(self):
        self.sizes = [1, 2]
        self.next(self.outer, foreach="sizes")

    @step
    def outer(self):
        self.size = self.input
        self.next(self.fan, self.side)

    @step
    def side(self):
        self.kind = "big" if self.size > 1 else "small"
        self.next({"big": self.big, "small": self.small}, condition="kind")

    @step
    def big(self):
        self.weight = 10
        self.next(self.weighed)

    @step
    def small(self):
        self.weight = 1
        self.next(self.weighed)

    @step
    def weighed(self):
        self.next(self.meet)

    @step
    def fan(self):
        self.numbers = list(range(self.size))
        self.next(self.inner, foreach="numbers")

    @step
    def inner(self):
        self.square = self.input**2
        self.next(self.inner_join)

    @step
    def inner_join(self, inputs):
        self.squares = [i.square for i in inputs]
        self.next(self.meet)

    @step
    def meet(self, inputs):
        self.both = (inputs.inner_join.squares, inputs.weighed.weight)
        self.next(self.outer_join)

    @step
    def outer_join(self, inputs):
        self.result = [i.both for i in inputs]
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    NestedFlow()
