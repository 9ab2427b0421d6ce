"""All flows of a folder as one code location: each definitions file that `dagster create` has written there."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import dagster as dg

# Where `create` puts its files by default: beside the flows.
PATTERN = "*_dagster.py"


def definitions_in(folder: Path) -> dg.Definitions:
    """The definitions of all files in a folder; those of several must have one executor.

    Args:
        folder: The folder.
    """
    sys.path.insert(0, str(folder))
    modules = [importlib.import_module(file.stem) for file in sorted(folder.glob(PATTERN))]
    return dg.Definitions.merge(*(module.defs for module in modules)) if modules else dg.Definitions()


defs = definitions_in(Path(os.environ.get("FLOWS_FOLDER", "/opt/flows")))
