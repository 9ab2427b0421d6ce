from metaflow import FlowSpec, step


class NestedFlow(FlowSpec):
    """Foreach in three levels, with ragged sizes, splits and switches."""

    @step
    def start(self):
        self.outers = [1, 3]
        self.next(self.outer, foreach="outers")

    @step
    def outer(self):
        self.size = self.input
        self.next(self.inners, self.side)

    @step
    def side(self):
        self.kind = "big" if self.size > 1 else "small"
        self.next({"big": self.big, "small": self.small}, condition="kind")

    @step
    def big(self):
        self.weight = 10 * self.size
        self.next(self.weighed)

    @step
    def small(self):
        self.weight = 1
        self.next(self.weighed)

    @step
    def weighed(self):
        self.weight += 0.5
        self.next(self.meet)

    @step
    def inners(self):
        self.middles = list(range(self.size))
        self.next(self.middle, foreach="middles")

    @step
    def middle(self):
        self.parity = "even" if self.input % 2 == 0 else "odd"
        self.deep = "xy"[: self.input % 2 + 1]
        self.next({"even": self.even, "odd": self.odd}, condition="parity")

    @step
    def even(self):
        self.leaves = ["even"]
        self.next(self.middle_join)

    @step
    def odd(self):
        self.next(self.leaf, foreach="deep")

    @step
    def leaf(self):
        self.path = [self.index] + [frame[0] for frame in self.foreach_stack()] + [self.input]
        self.next(self.leaf_join)

    @step
    def leaf_join(self, inputs):
        self.leaves = [i.path for i in inputs]
        self.next(self.middle_join)

    @step
    def middle_join(self, inputs):
        # Metaflow's own runner takes them in any order if they come from several steps
        self.grown = sorted((i.leaves for i in inputs), key=str)
        self._places = [i._foreach_stack[-1].index for i in inputs]
        self.next(self.meet)

    @step
    def meet(self, inputs):
        self.result = (inputs.middle_join.grown, inputs.weighed.weight)
        self.next(self.outer_join)

    @step
    def outer_join(self, inputs):
        self.results = [i.result for i in inputs]
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    NestedFlow()
