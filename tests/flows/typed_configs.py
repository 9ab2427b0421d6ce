"""Configs whose values JSON does not keep as they are."""

import enum
import os

from metaflow import Config, FlowSpec, config_expr, environment, step


class Size(enum.IntEnum):
    SMALL = 3


VALUES = {
    "shape": (1, (2, "x"), [float("inf"), None, True]),
    "names": {1: "one", 2: ("two",), "three": {}},
    "size": Size.SMALL,
}


def parse(name):
    return VALUES[name]


def nested(name):
    return {"axes": ("x", "y"), "units": [{"m": (1,)}]}


class TypedConfigsFlow(FlowSpec):
    shape = Config("shape", default_value="shape", parser=parse, plain=True)
    names = Config("names", default_value="names", parser=parse, plain=True)
    size = Config("size", default_value="size", parser=parse, plain=True)
    plot = Config("plot", default_value="plot", parser=nested)

    @environment(vars={"SHAPE": config_expr("repr(shape)")})
    @step
    def start(self):
        self.seen = (self.shape, self.names, self.plot.axes, self.plot["units"][0].m, os.environ["SHAPE"])
        self.next(self.end)

    @step
    def end(self):
        self.later = (self.shape, self.names, self.plot.axes, self.plot["units"][0].m, self.seen[-1])
        assert self.later == self.seen
        assert self.size == Size.SMALL


if __name__ == "__main__":
    TypedConfigsFlow()
