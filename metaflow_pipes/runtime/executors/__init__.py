"""The executors of generated jobs. Dagster's private names are used in this package only."""
