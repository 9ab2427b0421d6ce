"""The step's side of metaflow-pipes: a small supervisor that forks, watches and reports one Metaflow task.

Runs in the step's subprocess. Knows Metaflow and dagster_pipes; never imports dagster.
"""
