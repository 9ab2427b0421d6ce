from metaflow import FlowSpec, current, parallel, step


class ParallelFlow(FlowSpec):
    """A step with num_parallel, at the top level and in a foreach."""

    @step
    def start(self):
        self.next(self.train, num_parallel=3)

    @parallel
    @step
    def train(self):
        self.node = (current.parallel.node_index, current.parallel.num_nodes)
        self.next(self.trained)

    @step
    def trained(self, inputs):
        self.nodes = [i.node for i in inputs]
        self.next(self.fan)

    @step
    def fan(self):
        self.sizes = [2, 1]
        self.next(self.each, foreach="sizes")

    @step
    def each(self):
        self.next(self.inner, num_parallel=2)

    @parallel
    @step
    def inner(self):
        self.node = (self.input, current.parallel.node_index)
        self.next(self.inner_join)

    @step
    def inner_join(self, inputs):
        self.seen = [i.node[1] for i in inputs]
        self.next(self.join)

    @step
    def join(self, inputs):
        self.all_seen = [i.seen for i in inputs]
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    ParallelFlow()
