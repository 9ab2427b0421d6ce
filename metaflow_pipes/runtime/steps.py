"""A step of a flow, as a generated definitions file describes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class MetaflowCheck:
    """A check of a step's asset, as `@dagster_check` declares it.

    Attributes:
        name: The check's name.
        blocking: Whether the step fails if the check does.
        description: What it makes sure of, or None.
    """

    name: str
    blocking: bool = False
    description: str | None = None


@dataclass(frozen=True)
class MetaflowStep:
    """A step of a flow, as the compiler wrote it down.

    Attributes:
        name: The step's name.
        upstream: The steps whose tasks it takes, itself among them if it is recursive.
        op: The name of its op, if that is not the step's own.
        collected_by: The join that ends the outermost foreach around it, or None if there is none around it.
        items_of: The foreach step whose items it takes, if it takes all of them; else None.
        description: The docstring.
        code_version: A digest of its source.
        file: The path of the file with its source, if that is not the flow's: relative to the definitions file's
            folder or absolute.
        line: The line where its source begins, from 1; None in files of formats 1 and 2.
        checks: The checks that its `@dagster_check`s declare.
        pool: The Dagster pool that `create --pool` gives it, or None.
        materialized_by: The op that materializes its asset, if that is not its own: of a step in a foreach, the one
            that collects its tasks.
        depends_on: The assets of others that its asset depends on, beside those of the flow.
    """

    name: str
    upstream: Sequence[str] = ()
    op: str | None = None
    collected_by: str | None = None
    description: str | None = None
    code_version: str | None = None
    items_of: str | None = None
    pool: str | None = None
    materialized_by: str | None = None
    file: str | None = None
    line: int | None = None
    depends_on: Sequence[str] = ()
    checks: Sequence[MetaflowCheck] = ()

    @property
    def op_name(self) -> str:
        """The name of its op."""
        return self.op or self.name

    @property
    def is_recursive(self) -> bool:
        """Whether it can go on to itself."""
        return self.name in self.upstream
