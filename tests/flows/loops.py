from metaflow import FlowSpec, current, retry, step


class LoopsFlow(FlowSpec):
    """A step that goes on to itself, at the top level and in a foreach."""

    @step
    def start(self):
        self.count = 0
        self.next(self.loop)

    @retry(times=1, minutes_between_retries=0)
    @step
    def loop(self):
        self.count += 1
        if self.count == 2 and current.retry_count == 0:
            raise ValueError("in its second iteration")
        self.go = "again" if self.count < 3 else "on"
        self.next({"again": self.loop, "on": self.fan}, condition="go")

    @step
    def fan(self):
        self.limits = [1, 2]
        self.next(self.each, foreach="limits")

    @step
    def each(self):
        self.turns = 0
        self.limit = self.input
        self.next(self.turn)

    @step
    def turn(self):
        self.turns += 1
        self.go = "stop" if self.turns >= self.limit else "more"
        if self.limit == 2 and self.turns == 2:
            self.go = "other"
        self.next({"more": self.turn, "stop": self.stopped, "other": self.otherwise}, condition="go")

    @step
    def stopped(self):
        self.how = "stopped"
        self.next(self.done)

    @step
    def otherwise(self):
        self.how = "otherwise"
        self.next(self.done)

    @step
    def done(self):
        self.summary = (self.how, self.turns, self.index)
        self.next(self.join)

    @step
    def join(self, inputs):
        self.summaries = [i.summary for i in inputs]
        self.merge_artifacts(inputs, include=["count"])
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    LoopsFlow()
