"""The `dagster` command of every flow."""
