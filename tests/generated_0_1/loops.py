from metaflow import FlowSpec, current, retry, step


class LoopsFlow(FlowSpec):
    """Steps that go on to themselves, and switches, at the top level and in a foreach."""

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
        self.next({"again": self.loop, "on": self.choose}, condition="go")

    @step
    def choose(self):
        self.side = "left" if self.count == 3 else "right"
        self.next({"left": self.left, "right": self.right}, condition="side")

    @step
    def left(self):
        self.next(self.fan)

    @step
    def right(self):
        self.next(self.fan)

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
        self.go = "more" if self.turns < self.limit else "other" if self.limit == 2 else "stop"
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
        self.next(self.join)

    @step
    def join(self, inputs):
        self.result = [(i.how, i.turns) for i in inputs]
        self.merge_artifacts(inputs, include=["count", "side"])
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    LoopsFlow()
