"""A forecast of one day's sales: a flow between two Dagster assets, with a partition for each day.

`shop.py` beside it has the assets: the sales that it reads, and a report that takes the model it makes.
"""

import csv
from pathlib import Path

from metaflow import FlowSpec, Parameter, dagster_check, step

SALES = Path(__file__).parent / "sales"
HOURS = 24


class ForecastFlow(FlowSpec):
    """Fits the sales of a day by the hour."""

    day = Parameter("day", default="2026-01-01", help="The day: the partition of a run on Dagster.")

    @dagster_check("all_hours", blocking=True, description="There are sales of each hour of the day.")
    @step
    def start(self):
        """Read the sales of the day."""
        with (SALES / f"{self.day}.csv").open() as file:
            self.sales = [(int(row["hour"]), float(row["amount"])) for row in csv.DictReader(file)]
        hours = len({hour for hour, _ in self.sales})
        dagster_check.report("all_hours", hours == HOURS, metadata={"hours": hours})
        self.next(self.fit)

    @step
    def fit(self):
        """Fit a line through them, by least squares."""
        hours, amounts = zip(*self.sales, strict=True)
        mean_hour, mean_amount = sum(hours) / len(hours), sum(amounts) / len(amounts)
        covariance = sum((hour - mean_hour) * (amount - mean_amount) for hour, amount in self.sales)
        slope = covariance / sum((hour - mean_hour) ** 2 for hour in hours)
        self.model = {"slope": slope, "intercept": mean_amount - slope * mean_hour}
        print(f"{self.day}: {self.model['intercept']:.1f} at midnight, and {slope:+.2f} an hour")
        self.next(self.end)

    @step
    def end(self):
        """Say what the next day may bring."""
        self.expected = [self.model["intercept"] + self.model["slope"] * hour for hour in range(HOURS)]


if __name__ == "__main__":
    ForecastFlow()
