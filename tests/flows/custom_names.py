from metaflow import FlowSpec, Parameter, step


class CustomNamesFlow(FlowSpec):
    """Neither start nor end, and steps whose names Dagster reserves."""

    factor = Parameter("factor", default=3)

    @step(start=True)
    def config(self):
        self.value = 2
        self.next(self.type, self.type_)

    @step
    def type(self):
        self.product = self.value * self.factor
        self.next(self.output)

    @step
    def type_(self):
        self.product = self.value + self.factor
        self.next(self.output)

    @step
    def output(self, inputs):
        self.products = sorted(i.product for i in inputs)
        self.next(self.finish)

    @step(end=True)
    def finish(self):
        self.result = sum(self.products)


if __name__ == "__main__":
    CustomNamesFlow()
