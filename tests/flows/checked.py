from dagster_pipes import PipesContext
from metaflow import FlowSpec, Parameter, dagster_check, step


class CheckedFlow(FlowSpec):
    rows = Parameter("rows", default=5)
    bad = Parameter("bad", default="")

    @dagster_check("enough_rows", blocking=True, description="There are three rows or more.")
    @dagster_check("forgotten")
    @step
    def start(self):
        dagster_check.report("enough_rows", self.rows >= 3, metadata={"rows": self.rows})
        if PipesContext.is_initialized():
            pipes = PipesContext.get()
            pipes.report_asset_check("undeclared", True, metadata={"by": "pipes"})
            pipes.report_asset_check("no_nulls", False, "WARN", asset_key="warehouse/table")
        self.items = [0, 1]
        self.next(self.work, foreach="items")

    @dagster_check("in_order")
    @step
    def work(self):
        dagster_check.report("in_order", str(self.input) not in self.bad, metadata={"item": self.input})
        self.next(self.join)

    @step
    def join(self, inputs):
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    CheckedFlow()
