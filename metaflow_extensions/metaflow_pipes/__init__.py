"""The Metaflow extension of metaflow-pipes."""
