from pathlib import Path

from metaflow import FlowSpec, Parameter, parallel, step


class FragileFlow(FlowSpec):
    """Fails at the place that `breaks` names until a file named `ready` stands beside it; notes each task that runs."""

    breaks = Parameter("breaks", default="")

    def note(self, *place):
        """Write down that a task runs, and fail it if it is to break."""
        name = "-".join(map(str, place))
        with Path("notes").open("a") as notes:
            notes.write(f"{name}\n")
        if name == self.breaks and not Path("ready").exists():
            raise ValueError(f"{name} breaks")

    @step
    def start(self):
        self.note("start")
        self.outers = [0, 1]
        self.next(self.outer, foreach="outers")

    @step
    def outer(self):
        self.note("outer", self.input)
        self.inners = [0, 1]
        self.next(self.inner, foreach="inners")

    @step
    def inner(self):
        self.place = [frame.index for frame in self._foreach_stack]
        self.note("inner", *self.place)
        self.value = 10 * self.place[0] + self.place[1]
        self.side = "odd" if self.place[1] else "even"
        self.next({"even": self.even, "odd": self.odd}, condition="side")

    @step
    def even(self):
        self.note("even", *self.place)
        self.next(self.met)

    @step
    def odd(self):
        self.note("odd", *self.place)
        self.next(self.met)

    @step
    def met(self):
        self.next(self.inner_join)

    @step
    def inner_join(self, inputs):
        self.values = [i.value for i in inputs]
        self.note("inner_join", self.index)
        self.next(self.outer_join)

    @step
    def outer_join(self, inputs):
        self.all_values = [i.values for i in inputs]
        self.note("outer_join")
        self.way = "left"
        self.next(self.choose)

    @step
    def choose(self):
        self.note("choose")
        self.next({"left": self.left, "right": self.right}, condition="way")

    @step
    def left(self):
        self.note("left")
        self.next(self.merged)

    @step
    def right(self):
        self.next(self.merged)

    @step
    def merged(self):
        self.turns = 0
        self.next(self.loop)

    @step
    def loop(self):
        self.note("loop", self.turns)
        self.turns += 1
        self.go = "on" if self.turns == 3 else "again"
        self.next({"again": self.loop, "on": self.spread}, condition="go")

    @step
    def spread(self):
        self.next(self.node, num_parallel=2)

    @parallel
    @step
    def node(self):
        from metaflow import current

        self.rank = current.parallel.node_index
        self.note("node", self.rank)
        self.next(self.node_join)

    @step
    def node_join(self, inputs):
        self.ranks = [i.rank for i in inputs]
        self.merge_artifacts(inputs, include=["all_values", "turns"])
        self.next(self.end)

    @step
    def end(self):
        self.note("end")


if __name__ == "__main__":
    FragileFlow()
