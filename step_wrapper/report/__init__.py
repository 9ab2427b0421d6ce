"""The report of an attempt: its logs go to Metaflow's datastore, and its outcome to Dagster."""
