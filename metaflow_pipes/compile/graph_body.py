"""The body of the job's graph as Python source: ops that are applied to outputs of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaflow_pipes.compile.job_model import Body, Call, Reference
from metaflow_pipes.compile.source import LINE_LENGTH, bracketed, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from metaflow_pipes.compile.job_model import JobModel


def statements_of(job: JobModel) -> list[str]:
    """The statements of the graph's body, each at its indentation; a local function is one with the call of `map`."""
    calls = [statement for statement in job.statements if isinstance(statement, Call)]
    sources = {statement.source.variable for statement in job.statements if isinstance(statement, Body)}
    used = frozenset(_used(calls) | sources)
    return [_statement(statement, used) for statement in job.statements]


def _statement(statement: Call | Body, used: frozenset[str]) -> str:
    """A statement of the job's body, at its indentation."""
    if isinstance(statement, Call):
        return f"    {_application(statement, used, indent=4)}"
    returned = [_reference(reference) for reference, _ in statement.results]
    variables = [variable for _, variable in statement.results]
    inner = frozenset({reference.variable for reference, _ in statement.results} | _used(statement.calls))
    mapped = f"{_reference(statement.source)}.map"
    if len(statement.calls) == 1 and len(returned) == 1:
        return f"    {variables[0]} = {mapped}({_node(statement.calls[0])})"
    mapped = f"{mapped}({statement.function})"
    return "\n".join(
        [
            "",
            f"    def {statement.function}({statement.item}):",
            *(f"        {_application(call, inner, indent=8)}" for call in statement.calls),
            f"        return {_several(returned, indent=8, prefix=7)}",
            "",
            f"    {_several(variables, indent=4, prefix=len(mapped) + 3)} = {mapped}",
        ]
    )


def _several(items: list[str], indent: int, prefix: int) -> str:
    """One item, or several as a tuple: bare if it fits."""
    flat = ", ".join(items)
    if len(flat) + indent + prefix <= LINE_LENGTH:
        return flat
    return bracketed("(", items, ")", indent, prefix)


def _application(call: Call, used: frozenset[str], indent: int) -> str:
    assignment = f"{call.variable} = " if call.variable in used else ""
    opening = f"{assignment}{_node(call)}("
    return bracketed(opening, [_argument(argument, indent + 4) for argument in call.arguments], ")", indent)


def _node(call: Call) -> str:
    """An op as a node of the job, under the name that step keys and the run config have."""
    return f"{call.function}.alias({one_line(call.op)})"


def _argument(argument: Reference | tuple[Reference, ...], indent: int) -> str:
    if isinstance(argument, Reference):
        return _reference(argument)
    if len(argument) == 1 and argument[0].is_collected:
        return _reference(argument[0])
    return bracketed("[", [_reference(reference) for reference in argument], "]", indent)


def _reference(reference: Reference) -> str:
    output = f".{reference.output}" if reference.output is not None else ""
    return f"{reference.variable}{output}{'.collect()' if reference.is_collected else ''}"


def _used(calls: Iterable[Call]) -> set[str]:
    """The variables that calls take."""
    arguments = [argument for call in calls for argument in call.arguments]
    return {
        reference.variable
        for argument in arguments
        for reference in ((argument,) if isinstance(argument, Reference) else argument)
    }
