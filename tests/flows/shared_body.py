from metaflow import FlowSpec, Parameter, step


class SharedBodyFlow(FlowSpec):
    """Two foreach steps, of which a switch chooses one, with the same body."""

    way = Parameter("way", default="one")

    @step
    def start(self):
        self.next({"one": self.one, "two": self.two}, condition="way")

    @step
    def one(self):
        self.items = [1]
        self.next(self.work, foreach="items")

    @step
    def two(self):
        self.items = [2, 3]
        self.next(self.work, foreach="items")

    @step
    def work(self):
        self.value = (self.input, self.index)
        self.next(self.join)

    @step
    def join(self, inputs):
        self.values = [i.value for i in inputs]
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    SharedBodyFlow()
