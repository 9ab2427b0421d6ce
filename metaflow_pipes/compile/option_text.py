"""Options of the command line that hold names and values in a text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaflow_pipes.compile.job_options import FromRunEnvironment
from metaflow_pipes.errors import CompileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def parse_step_env(items: Iterable[str]) -> dict[str, str | FromRunEnvironment]:
    """Parse `--step-env` options.

    Args:
        items: Each `KEY=VALUE`, or `KEY` for a value that the run's own environment holds.
    """
    step_env: dict[str, str | FromRunEnvironment] = {}
    for item in items:
        name, separator, value = item.partition("=")
        step_env[name] = value if separator else FromRunEnvironment(name)
    return step_env


def parse_pairs(option: str, items: Iterable[str]) -> dict[str, str | list[str]]:
    """Parse an option `NAME=VALUE` that can be given several times.

    Args:
        option: The option.
        items: The pairs.

    Returns:
        The value of each name; a list for one that is given several times.

    Raises:
        CompileError: There is a pair without name or `=`.
    """
    pairs: dict[str, str | list[str]] = {}
    for item in items:
        name, separator, value = item.partition("=")
        if not separator or not name:
            raise CompileError(f"{option} {item!r} is not of the form NAME=VALUE.")
        before = pairs.get(name, [])
        pairs[name] = value if name not in pairs else [*([before] if isinstance(before, str) else before), value]
    return pairs


def parse_param_from(items: Iterable[str]) -> dict[str, str]:
    """Parse `--param-from` options, each `PARAMETER=KEY`.

    Raises:
        CompileError: There is one of another form, or several assets fill a parameter.
    """
    return _single_values(
        "--param-from",
        items,
        lambda parameter, keys: f"fills the parameter {parameter} from {' and '.join(keys)}. Name one asset.",
    )


def parse_partition_by(items: Iterable[str]) -> dict[str, str]:
    """Parse `--partition-by` options, each `PARAMETER=SPEC`.

    Raises:
        CompileError: There is one of another form, or a parameter has several specs.
    """
    return _single_values(
        "--partition-by",
        items,
        lambda parameter, _: f"names the parameter {parameter} twice. Each dimension fills its own.",
    )


def parse_pools(items: Iterable[str]) -> dict[str, str]:
    """Parse `--pool` options, each `STEP=NAME`.

    Raises:
        CompileError: There is one of another form, or a step has several pools.
    """
    return _single_values(
        "--pool", items, lambda step, pools: f"gives step *{step}* the pools {', '.join(pools)}, but a step has one."
    )


def _single_values(option: str, items: Iterable[str], problem: Callable[[str, list[str]], str]) -> dict[str, str]:
    """The values of an option that gives each name one.

    Args:
        option: The option, as on the command line.
        items: Each `NAME=VALUE`.
        problem: What the option does wrong that gives a name several values, for a sentence that begins with it.
    """
    values: dict[str, str] = {}
    for name, value in parse_pairs(option, items).items():
        if not isinstance(value, str):
            raise CompileError(f"{option} {problem(name, value)}")
        values[name] = value
    return values
