"""A Metaflow flow becomes the text of a Dagster definitions file: read, lower, render."""
