from dagster_pipes import PipesContext
from metaflow import FlowSpec, current, dagster_check, parallel, step


class GangFlow(FlowSpec):
    @step
    def start(self):
        self.count = 0
        self.next(self.loop)

    @dagster_check("converges")
    @step
    def loop(self):
        self.count += 1
        self.way = "again" if self.count < 2 else "done"
        dagster_check.report("converges", self.count > 1, metadata={"count": self.count})
        self.next({"again": self.loop, "done": self.gang}, condition="way")

    @step
    def gang(self):
        self.next(self.work, num_parallel=2)

    @dagster_check("in_gang")
    @parallel
    @step
    def work(self):
        dagster_check.report("in_gang", current.parallel.node_index == 0)
        self.next(self.join)

    @step
    def join(self, inputs):
        self.next(self.end)

    @step
    def end(self):
        PipesContext.get().report_asset_check("no_nulls", False)


if __name__ == "__main__":
    GangFlow()
