import os

from metaflow import FlowSpec, JSONType, Parameter, current, step


class PartitionedFlow(FlowSpec):
    """Fails in `end` as long as there is a file `fail`."""

    date = Parameter("date", required=True)
    region = Parameter("region", default="none")
    last = Parameter("last", default="none")
    day = Parameter("day", type=int, default=0)
    flag = Parameter("flag", default=True)
    sizes = Parameter("sizes", type=int, multiple=True, default=[1])
    settings = Parameter("settings", type=JSONType, default={})

    @step
    def start(self):
        self.seen = (self.date, self.region, self.last, self.day)
        self.tags = sorted(tag for tag in current.tags if tag.startswith("partition"))
        self.next(self.end)

    @step
    def end(self):
        if os.path.exists("fail"):
            raise ValueError("there is a file fail")


if __name__ == "__main__":
    PartitionedFlow()
