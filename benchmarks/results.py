"""The figures of all benchmarks in one JSON file, with the facts of the machine that they were measured on."""

from __future__ import annotations

import argparse
import compileall
import importlib.metadata
import json
import os
import platform
from datetime import date
from pathlib import Path
from typing import Any

from metaflow_pipes.files import replacing

RESULTS = Path(__file__).parent / "results.json"
PROJECT = Path(__file__).parent.parent
PACKAGES = ("metaflow_pipes", "step_wrapper", "metaflow_extensions")


def parser_of(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """The options that all benchmarks have.

    Args:
        description: What the benchmark measures.
        rounds: How often by default.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"how often each is measured; {rounds} by default")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the figures are kept")
    return parser


def prepare() -> None:
    """Have the project's modules compiled, as those of an installed package are."""
    for package in PACKAGES:
        compileall.compile_dir(PROJECT / package, quiet=1)


def keep(file: Path, benchmark: str, figures: Any) -> None:
    """Put the figures of a benchmark in place of those that a file has of it.

    Args:
        file: The JSON file; it may not exist.
        benchmark: The benchmark's name.
        figures: What it has measured, as JSON.
    """
    known = json.loads(file.read_text()) if file.exists() else {}
    known[benchmark] = {"machine": machine(), "figures": figures}
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(known, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """The facts that the figures depend on."""
    versions = {name: importlib.metadata.version(name) for name in ("dagster", "metaflow", "sqlalchemy")}
    return {
        "date": date.today().isoformat(),
        "cpus": os.cpu_count(),
        "cpu": _processor(),
        "memory_gigabytes": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
