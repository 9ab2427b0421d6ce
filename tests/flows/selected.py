"""A foreach, a switch, a split and a loop, each step with an artifact that tells its run."""

from metaflow import FlowSpec, Parameter, current, step


class SelectedFlow(FlowSpec):
    """Each shape that a selection of assets has to do with."""

    size = Parameter("size", type=int, default=2)
    way = Parameter("way", default="short")

    @step
    def start(self):
        self.made_by = current.run_id
        self.items = list(range(self.size))
        self.next(self.work, foreach="items")

    @step
    def work(self):
        self.number = self.input
        self.worked_by = current.run_id
        self.next(self.join)

    @step
    def join(self, inputs):
        self.numbers = [task.number for task in inputs]
        self.worked_by = [task.worked_by for task in inputs]
        self.merge_artifacts(inputs, include=["made_by"])
        self.joined_by = current.run_id
        self.next(self.choose)

    @step
    def choose(self):
        self.chosen = self.way
        self.next({"short": self.short, "long": self.long}, condition="chosen")

    @step
    def short(self):
        self.passed = "short"
        self.next(self.loop)

    @step
    def long(self):
        self.passed = "long"
        self.next(self.loop)

    @step
    def loop(self):
        self.turns = getattr(self, "turns", 0) + 1
        self.more = "again" if self.turns < 2 else "done"
        self.next({"again": self.loop, "done": self.end}, condition="more")

    @step
    def end(self):
        self.origin = current.origin_run_id
        self.ended_by = current.run_id


if __name__ == "__main__":
    SelectedFlow()
