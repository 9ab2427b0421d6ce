"""A definitions file as a deployment: whose it is, where it is, and what it says."""
