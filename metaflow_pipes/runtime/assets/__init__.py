"""The Dagster assets of a flow: one for each step, materialized by the runs of its job."""
