"""A code location with a flow among assets: sales, day by day, the flow that fits them, and a report of its model.

python forecast_flow.py dagster create --partition-by day=daily:2026-01-01 --depends-on raw/sales
dagster dev -f shop.py
"""

import csv
import random
from pathlib import Path

import dagster as dg
import forecastflow_dagster

SALES = Path(__file__).parent / "sales"
DAYS = dg.DailyPartitionsDefinition(start_date="2026-01-01")


@dg.asset(key=["raw", "sales"], partitions_def=DAYS, group_name="shop", kinds={"csv"})
def sales(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """The sales of a day, hour by hour. Instead of a till, a random number says how many."""
    day = context.partition_key
    rng = random.Random(day)
    SALES.mkdir(exist_ok=True)
    with (SALES / f"{day}.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["hour", "amount"])
        table.writerows([hour, round(100 + 5 * hour + rng.uniform(-20, 20), 2)] for hour in range(24))
    return dg.MaterializeResult(metadata={"path": dg.MetadataValue.path(str(SALES / f"{day}.csv"))})


@dg.asset(
    partitions_def=DAYS,
    group_name="shop",
    ins={"model": dg.AssetIn(["ForecastFlow", "fit"], metadata={"artifact": "model"})},
)
def report(context: dg.AssetExecutionContext, model: dict) -> dg.MaterializeResult:
    """The model of a day in words, for those who buy the stock."""
    trend = "rise" if model["slope"] > 0 else "fall"
    return dg.MaterializeResult(
        metadata={"summary": f"{context.partition_key}: sales {trend} by {abs(model['slope']):.2f} an hour"}
    )


defs = dg.Definitions.merge(forecastflow_dagster.defs, dg.Definitions(assets=[sales, report]))
