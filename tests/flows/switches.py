from metaflow import FlowSpec, Parameter, step


class SwitchesFlow(FlowSpec):
    """Switches in switches, one with a foreach in a branch; one branch goes straight to the merge, the end step."""

    way = Parameter("way", default="many")

    @step
    def start(self):
        self.next({"many": self.many, "few": self.few, "none": self.end}, condition="way")

    @step
    def many(self):
        self.items = [1, 2]
        self.next(self.item, foreach="items")

    @step
    def item(self):
        self.value = self.input
        self.next(self.joined)

    @step
    def joined(self, inputs):
        self.result = [i.value for i in inputs]
        self.next(self.end)

    @step
    def few(self):
        self.again = "left"
        self.next({"left": self.left, "right": self.right}, condition="again")

    @step
    def left(self):
        self.result = "left"
        self.next(self.merged)

    @step
    def right(self):
        self.result = "right"
        self.next(self.merged)

    @step
    def merged(self):
        self.next(self.end)

    @step
    def end(self):
        self.final = getattr(self, "result", None)


if __name__ == "__main__":
    SwitchesFlow()
