"""The orders of a shop, from which the flow makes segments."""

import csv
import random
from pathlib import Path

import dagster as dg

ORDERS = Path(__file__).parents[3] / "data" / "orders.csv"
CUSTOMERS = ("Ann", "Bob", "Cleo", "Dan")


@dg.asset(group_name="shop", kinds={"csv"})
def orders() -> dg.MaterializeResult:
    """The orders of each customer. Instead of a till, a random number says how much."""
    rng = random.Random(7)
    ORDERS.parent.mkdir(exist_ok=True)
    with ORDERS.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["customer", "amount"])
        table.writerows([customer, round(rng.uniform(50, 250), 2)] for customer in CUSTOMERS for _ in range(3))
    return dg.MaterializeResult(metadata={"path": dg.MetadataValue.path(str(ORDERS))})
