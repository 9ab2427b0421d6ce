"""The Python API: the compiler, Metaflow's Deployer, and deployed flows."""
