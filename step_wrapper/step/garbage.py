"""Python's cyclic garbage collector, which goes through all objects again and again while modules are imported."""

from __future__ import annotations

import gc

# How many more containers are made than deleted before it does so while a step starts; Metaflow alone makes 70,000.
STARTUP_THRESHOLD = 200_000

_usual = gc.get_threshold()


def collect_seldom() -> None:
    """Let it hardly ever do so from now on, while the step starts."""
    gc.set_threshold(STARTUP_THRESHOLD, *_usual[1:])


def collect_as_usual() -> None:
    """Let it work as in other processes, but pass over what was made until now.

    If the flow's module has set a threshold of its own, that stays.
    """
    if gc.get_threshold() == (STARTUP_THRESHOLD, *_usual[1:]):
        gc.set_threshold(*_usual)
        gc.freeze()
