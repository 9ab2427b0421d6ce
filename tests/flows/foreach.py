from metaflow import FlowSpec, Parameter, step


class ForeachFlow(FlowSpec):
    """A foreach whose body has several steps, a split and a join; then one over a generator."""

    count = Parameter("count", default=3)

    @step
    def start(self):
        self.items = [{"n": n} for n in range(self.count)]
        self.next(self.work, foreach="items")

    @step
    def work(self):
        self.number = self.input["n"]
        self.place = (self.index, [tuple(frame) for frame in self.foreach_stack()])
        self.next(self.left, self.right)

    @step
    def left(self):
        self.half = self.number * 2
        self.next(self.both)

    @step
    def right(self):
        self.half = self.number * 3
        self.next(self.both)

    @step
    def both(self, inputs):
        self.halves = sorted(i.half for i in inputs)
        self.merge_artifacts(inputs, exclude=["half"])
        self.next(self.after)

    @step
    def after(self):
        self.total = sum(self.halves) + self.index
        self.next(self.join)

    @step
    def join(self, inputs):
        self.totals = [i.total for i in inputs]
        self.places = [i.place for i in inputs]
        self.first = inputs[0].number
        self.next(self.spell)

    @step
    def spell(self):
        self.letters = "abc"
        self.next(self.letter, foreach="letters")

    @step
    def letter(self):
        self.upper = self.input.upper()
        self.next(self.word)

    @step
    def word(self, inputs):
        self.word_made = "".join(i.upper for i in inputs)
        self.merge_artifacts(inputs, exclude=["upper"])
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    ForeachFlow()
