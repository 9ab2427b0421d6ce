"""Checks of single options, wherever they are given: at `create`, at a run, in Python or in YAML."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaflow_pipes.errors import CompileError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def check_workflow_timeout(seconds: int | None) -> None:
    """Check the time limit of a run.

    Raises:
        CompileError: No run could keep it.
    """
    if seconds is not None and seconds < 1:
        raise CompileError(
            f"--workflow-timeout is {seconds}, but a run needs at least 1 second. Leave the option out for runs "
            "without a limit."
        )


def check_types(values: Mapping[str, object], types: Mapping[str, type]) -> None:
    """Check the types of options, which can be wrong where they come from Python.

    Args:
        values: The options' values; None is an option that was not given.
        types: The type of each.

    Raises:
        CompileError: A value is of another type.
    """
    for option, value in values.items():
        expected = types[option]
        is_other = not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool)
        if value is not None and is_other:
            raise CompileError(f"{option} is {value!r}, but has to be of type {expected.__name__}.")


def check_list(option: str, values: object) -> None:
    """Check an option that can be given several times, which can be anything where it comes from Python.

    Raises:
        CompileError: It is no list or tuple of strings.
    """
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, str) for value in values):
        raise CompileError(f"{option} is {values!r}, but has to be a list of str.")


def check_tags(tags: Sequence[str]) -> None:
    """Check Metaflow tags.

    Raises:
        CompileError: Metaflow does not take one of them.
    """
    from metaflow.tagging_util import MetaflowTaggingError, validate_tags

    check_list("tags", tags)
    try:
        validate_tags(tags)
    except MetaflowTaggingError as error:
        raise CompileError(f"A tag can't be used: {error.message}") from None
