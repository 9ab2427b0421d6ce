"""The step's own process: Metaflow's `step` command, and what is done around it."""
