"""Sorts the customers of a shop into segments, side by side. An entry of the `dg` project around it."""

import csv
from pathlib import Path

from metaflow import FlowSpec, Parameter, step

ORDERS = Path(__file__).parent.parent / "data" / "orders.csv"


class SegmentFlow(FlowSpec):
    """Tells customers who buy much from those who buy little."""

    large = Parameter("large", default=150.0, help="The mean order of a large customer is at least this.")

    @step
    def start(self):
        """Read the orders."""
        with ORDERS.open() as file:
            self.orders = [(row["customer"], float(row["amount"])) for row in csv.DictReader(file)]
        self.customers = sorted({customer for customer, _ in self.orders})
        self.next(self.sort, foreach="customers")

    @step
    def sort(self):
        """Sort one customer."""
        self.customer = self.input
        amounts = [amount for customer, amount in self.orders if customer == self.customer]
        self.segment = "large" if sum(amounts) / len(amounts) >= self.large else "small"
        print(f"{self.customer}: {len(amounts)} orders, {self.segment}")
        self.next(self.join)

    @step
    def join(self, inputs):
        """Bring the segments together."""
        self.segments = {task.customer: task.segment for task in inputs}
        self.next(self.end)

    @step
    def end(self):
        """Say how many there are of each."""
        self.sizes = {segment: list(self.segments.values()).count(segment) for segment in ("large", "small")}


if __name__ == "__main__":
    SegmentFlow()
