"""Flows in a Dagster project: one YAML entry of a `dg` project each, or one call in Python."""
