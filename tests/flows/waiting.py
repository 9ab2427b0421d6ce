from metaflow import FlowSpec, IncludeFile, JSONType, Parameter, current, step, trigger


@trigger(event="data_ready")
class WaitingFlow(FlowSpec):
    """Waits for one event, whose fields set the parameters of the same names."""

    rows = Parameter("rows", type=int, default=1)
    rate = Parameter("learning-rate", type=float, default=0.5)
    is_full = Parameter("is_full", type=bool, default=False)
    shape = Parameter("shape", type=JSONType, default={"x": 0})
    days = Parameter("days", separator=",", default="mon")
    title = Parameter("title")
    notes = IncludeFile("notes")
    country = Parameter("country", required=True)

    @step
    def start(self):
        self.names = [event.name for event in current.trigger.events]
        self.numbers = [1, 2]
        self.next(self.work, foreach="numbers")

    @step
    def work(self):
        self.id = current.trigger.event.id
        self.next(self.join)

    @step
    def join(self, inputs):
        self.ids = [task.id for task in inputs]
        self.next(self.end)

    @step
    def end(self):
        self.values = [self.rows, self.rate, self.is_full, self.shape, self.days, self.title, self.country]


if __name__ == "__main__":
    WaitingFlow()
