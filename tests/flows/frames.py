"""DataFrames of pandas and polars."""

import pandas as pd
import polars as pl
from metaflow import FlowSpec, step


class FramesFlow(FlowSpec):
    """Makes one table, then two, then a wide one."""

    @step
    def start(self):
        import numpy as np

        self.table = pd.DataFrame({"id": [1, 2, 3], "name": ["a", "b", "c"]})
        self.score = np.float64(0.5)
        self.hits = np.int64(4)
        self.is_close = np.bool_(True)
        self.next(self.two)

    @step
    def two(self):
        self.left = pl.DataFrame({"x": [1.5, 2.5]})
        self.right = pd.DataFrame({"y": []})
        self.next(self.end)

    @step
    def end(self):
        self.wide = pl.DataFrame({f"column {number}": [number] for number in range(300)})


if __name__ == "__main__":
    FramesFlow()
