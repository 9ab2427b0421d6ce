"""A `dg` project with two flows and two plain assets."""
