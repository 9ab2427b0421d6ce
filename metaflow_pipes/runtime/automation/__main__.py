"""`python -m metaflow_pipes.runtime.automation`: the process that follows up on a run that has ended."""

from metaflow_pipes.runtime.automation.background import main

if __name__ == "__main__":
    main()
