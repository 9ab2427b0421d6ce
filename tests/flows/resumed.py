import time
from pathlib import Path

from metaflow import FlowSpec, Parameter, current, parallel, step


class ResumedFlow(FlowSpec):
    """All shapes of graphs. Fails at the place that the file `broken` names, when the places behind it are passed."""

    alpha = Parameter("alpha", default=1)

    def passes(self, *place):
        """Note that a task runs, and fail it if it is broken: `turn-1-1-1` or `turn-1-1-1 inner_join-0`."""
        name = "-".join(map(str, place))
        broken, *before = Path("broken").read_text().split()
        if name == broken:
            while not set(before) <= set(Path("notes").read_text().split()):
                time.sleep(0.1)
            time.sleep(1 if before else 0)
            raise ValueError(f"{name} is broken")
        print(f"{name} passes")
        with Path("notes").open("a") as notes:
            notes.write(f"{name}\n")

    @step
    def start(self):
        self.passes("start")
        self.next(self.fan, self.solo)

    @step
    def solo(self):
        self.passes("solo")
        self.alone = self.alpha
        self.next(self.meet)

    @step
    def fan(self):
        self.outers = ["a", "b"]
        self.next(self.outer, foreach="outers")

    @step
    def outer(self):
        self.turns = 0
        self.inners = [1, 2][: self.index + 1]
        self.next(self.turn, foreach="inners")

    @step
    def turn(self):
        self.goal = self.inners[self.index]
        self.passes("turn", *(frame.index for frame in self._foreach_stack), self.turns)
        self.turns += 1
        self.way = "again" if self.turns < self.goal else "low" if self.goal == 1 else "high"
        self.next({"again": self.turn, "low": self.low, "high": self.high}, condition="way")

    @step
    def low(self):
        self.next(self.done)

    @step
    def high(self):
        self.next(self.done)

    @step
    def done(self):
        self.summary = f"{self.way} after {self.turns}"
        self.next(self.inner_join)

    @step
    def inner_join(self, inputs):
        self.summaries = [i.summary for i in inputs]
        self.passes("inner_join", self.index)
        self.next(self.join)

    @step
    def join(self, inputs):
        self.all_summaries = [i.summaries for i in inputs]
        self.next(self.meet)

    @step
    def meet(self, inputs):
        self.result = (inputs.join.all_summaries, inputs.solo.alone, self.alpha)
        self.next(self.spread)

    @step
    def spread(self):
        self.next(self.node, num_parallel=2)

    @parallel
    @step
    def node(self):
        self.seen = (current.parallel.node_index, self.alpha)
        self.passes("node", current.parallel.node_index)
        self.next(self.node_join)

    @step
    def node_join(self, inputs):
        self.all_seen = [i.seen for i in inputs]
        self.merge_artifacts(inputs, include=["result"])
        self.next(self.end)

    @step
    def end(self):
        self.passes("end")
        self.origin_run_id = current.origin_run_id


if __name__ == "__main__":
    ResumedFlow()
