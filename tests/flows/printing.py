import sys

from metaflow import FlowSpec, step


class PrintingFlow(FlowSpec):
    """Each task prints which it is."""

    @step
    def start(self):
        print("out of start")
        print("err of start", file=sys.stderr)
        self.items = list(range(5))
        self.next(self.work, foreach="items")

    @step
    def work(self):
        print("item", self.input)
        self.next(self.join)

    @step
    def join(self, inputs):
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    PrintingFlow()
