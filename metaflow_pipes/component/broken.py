"""The definitions of an entry that can't be loaded: an asset that says why, so that the others of the project load."""

from __future__ import annotations

import ast
import os
import re
from typing import TYPE_CHECKING

import dagster as dg

from metaflow_pipes.component.state import USER
from metaflow_pipes.component.translator import OUT_OF_DATE
from metaflow_pipes.locations import fingerprint_of
from metaflow_pipes.names import IO_RESOURCE
from metaflow_pipes.runtime import RESOURCES, MetaflowFlow, MetaflowStep

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from metaflow_pipes.runtime import DagsterMetaflowTranslator

# Set by `dagster definitions validate` and `dg check defs`, which shall fail.
_VALIDATION_VARIABLE = "DAGSTER_IS_DEFS_VALIDATION_CLI"


def is_validated() -> bool:
    """Whether the definitions are loaded to find out whether they can be."""
    return bool(os.environ.get(_VALIDATION_VARIABLE))


def broken_entry(entry: str, problem: str, assets: Sequence[dg.AssetSpec] = ()) -> dg.Definitions:
    """The definitions of an entry that can't be loaded.

    Args:
        entry: The entry's name.
        problem: Why, as its user shall read it.
        assets: Its assets, as far as they are known. They stay as external ones, since others may take them.
    """
    name = re.sub(r"[^A-Za-z0-9_]+", "_", entry).strip("_")

    @dg.asset(
        key=["metaflow_entry", name],
        group_name=name,
        description=f"**This entry can't be loaded.**\n\n```\n{problem}\n```",
        tags={"metaflow/broken": "true"},
        kinds={"metaflow"},
    )
    def broken() -> None:
        raise dg.Failure(problem, allow_retries=False)

    external = [
        spec.replace_attributes(automation_condition=None)
        .merge_attributes(metadata={OUT_OF_DATE: problem})
        .with_io_manager_key(IO_RESOURCE)
        for spec in assets
    ]
    # the IO manager by which others take them is theirs, as before
    resources = {IO_RESOURCE: RESOURCES[IO_RESOURCE]}
    kept = [dg.AssetsDefinition(specs=external, resource_defs=resources)] if external else []
    return dg.Definitions(assets=[broken, *kept])


def specs_in(definitions: dg.Definitions) -> list[dg.AssetSpec]:
    """The assets of an entry, by the definitions that it had before."""
    assets = [each for each in definitions.assets or () if isinstance(each, dg.AssetsDefinition)]
    return [spec for each in assets for spec in each.specs]


def specs_read_from(
    files: Iterable[Path], job: str | None, entry_file: Path, translator: DagsterMetaflowTranslator
) -> list[dg.AssetSpec]:
    """The assets of flows that were never compiled, as far as the text of their files tells the steps.

    Args:
        files: The flow files.
        job: The name that the user gives the job, or None.
        entry_file: The file of the entry.
        translator: The entry's translator.
    """
    specs = []
    for file in files:
        for name, steps in _flows_in(file):
            flow = MetaflowFlow(
                name=name,
                file=str(file),
                definitions_file=str(entry_file),
                working_directory=".",
                fingerprint=fingerprint_of(file),
                top_level_args=[],
                datastore="local",
                datastore_root=".",
                user=USER,
                job=job,
                steps=[MetaflowStep(step) for step in steps],
                translator=translator,
            )
            specs += [translator.get_asset_spec(flow, s, []) for s in flow.steps if translator.includes(flow, s)]
    return specs


def _flows_in(file: Path) -> list[tuple[str, list[str]]]:
    """The classes of a file that have steps, with the names of these; none if it is no Python."""
    try:
        module = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return []
    classes = [each for each in module.body if isinstance(each, ast.ClassDef)]
    flows = [(each.name, _steps_of(each)) for each in classes]
    return [(name, steps) for name, steps in flows if steps]


def _steps_of(flow: ast.ClassDef) -> list[str]:
    """The names of the methods with the decorator `@step`."""
    methods = [method for method in flow.body if isinstance(method, ast.FunctionDef)]
    return [m.name for m in methods if any(ast.unparse(d).rpartition(".")[2] == "step" for d in m.decorator_list)]
