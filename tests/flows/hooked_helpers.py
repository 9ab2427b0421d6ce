"""Exit hooks of `hooked.py` that are not in the flow file."""

from pathlib import Path


def lament(**kwargs):
    run = kwargs["run"]
    with (Path(__file__).parent / "hooks").open("a") as notes:
        notes.write(f"lament {run.pathspec}\n")
