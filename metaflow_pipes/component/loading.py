"""Compiled text becomes definitions: with the translator and the executor of its entry in place of its own."""

from __future__ import annotations

import ast
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg

from metaflow_pipes.runtime import MetaflowFlow, MetaflowFlowWarning, threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from metaflow_pipes.component.state import CompiledFlow
    from metaflow_pipes.runtime import DagsterMetaflowTranslator

# The names by which the text finds the functions of its entry.
_TRANSLATOR, _EXECUTOR = "__entry_translator__", "__entry_executor__"


@dataclass(frozen=True)
class Hooks:
    """The replacements of an entry for what is compiled.

    Attributes:
        translator: Makes the translator of the entry, of the one that the text has, if any.
        executor: Makes the job's executor, of the one that the text has.
        compile_again: How the flows are compiled again.
        location_executor: What runs assets without a job: `threads`, the job's `own`, or what the `project` says.
    """

    translator: Callable[[DagsterMetaflowTranslator | None], DagsterMetaflowTranslator]
    executor: Callable[[dg.ExecutorDefinition], dg.ExecutorDefinition]
    compile_again: str
    location_executor: Literal["threads", "own", "project"] = "threads"


def definitions_of(
    flows: Sequence[CompiledFlow], file: Path, hooks: Hooks
) -> tuple[dg.Definitions, list[MetaflowFlow]]:
    """The definitions of compiled flows, and the flows.

    Args:
        flows: The flows.
        file: The absolute path of the file that stands for the text: what is near it is found from its folder.
        hooks: What the entry puts in place.
    """
    loaded = [_run(flow.text, file, hooks) for flow in flows]
    return dg.Definitions.merge(*[_definitions(names, hooks) for names in loaded]), [names["FLOW"] for names in loaded]


def _definitions(names: dict[str, Any], hooks: Hooks) -> dg.Definitions:
    """The definitions of one text.

    Dagster takes one executor for a code location. That of the text is the job's; so that entries with different ones
    can be merged, all have the same here.
    """
    defs: dg.Definitions = names["defs"]
    executors = {"threads": threads(), "own": names["EXECUTOR"], "project": None}
    return dg.Definitions(
        assets=defs.assets,
        jobs=defs.jobs,
        schedules=defs.schedules,
        sensors=defs.sensors,
        executor=executors[hooks.location_executor],
    )


def _run(text: str, file: Path, hooks: Hooks) -> dict[str, Any]:
    """Run a text, and return its names."""
    module = ast.parse(text)
    for statement in module.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
            if name == "FLOW" and isinstance(statement.value, ast.Call):
                _put_in(statement.value, hooks.compile_again)
            elif name == "EXECUTOR":
                statement.value = _call(_EXECUTOR, statement.value)
    names: dict[str, Any] = {
        "__name__": f"{__name__}.compiled",
        "__file__": str(file),
        _TRANSLATOR: hooks.translator,
        _EXECUTOR: hooks.executor,
    }
    with warnings.catch_warnings():
        # the entry says it itself, once it is loaded
        warnings.simplefilter("ignore", MetaflowFlowWarning)
        exec(compile(ast.fix_missing_locations(module), str(file), "exec", dont_inherit=True), names)  # noqa: S102
    return names


def _put_in(flow: ast.Call, compile_again: str) -> None:
    """Put the entry's translator and its advice into the call that makes a flow."""
    own = next((keyword.value for keyword in flow.keywords if keyword.arg == "translator"), ast.Constant(None))
    flow.keywords = [
        *(keyword for keyword in flow.keywords if keyword.arg != "translator"),
        ast.keyword("translator", _call(_TRANSLATOR, own)),
        ast.keyword("compile_again", ast.Constant(compile_again)),
    ]


def _call(function: str, argument: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(function, ast.Load()), [argument], [])
