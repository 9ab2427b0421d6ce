from metaflow import FlowSpec, Parameter, step


class TrainedFlow(FlowSpec):
    """A flow whose artifacts other assets take: of a plain step, and of one in a foreach."""

    rate = Parameter("rate", type=float, default=0.5)
    notes = Parameter("notes", type=str, default="")

    @step
    def start(self):
        self.depths = [3, 1, 2]
        self.next(self.fit, foreach="depths")

    @step
    def fit(self):
        self.model = {"depth": self.input, "rate": self.rate}
        self.next(self.choose)

    @step
    def choose(self, inputs):
        self.best_model = max((i.model for i in inputs), key=lambda model: model["depth"])
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    TrainedFlow()
