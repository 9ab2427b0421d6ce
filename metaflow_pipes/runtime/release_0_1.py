"""Functions that only definitions files of release 0.1 call: one for each shape of an op's output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from metaflow_pipes.runtime.attempt import StepOptions
from metaflow_pipes.runtime.step import completed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from metaflow_pipes.runtime.client.client import MetaflowPipesClient
    from metaflow_pipes.runtime.flow import MetaflowFlow


def run_split_step(
    context: dg.OpExecutionContext,
    pipes: MetaflowPipesClient,
    flow: MetaflowFlow,
    step: str,
    upstream: str | Sequence[str] = (),
    **options: Any,
) -> str:
    """The body of an op whose step ends in a foreach or in `num_parallel`."""
    return completed(context, pipes, flow, step, upstream, StepOptions(**options)).split


def run_foreach_step(
    context: dg.OpExecutionContext,
    pipes: MetaflowPipesClient,
    flow: MetaflowFlow,
    step: str,
    upstream: str | Sequence[str] = (),
    **options: Any,
) -> Iterator[dg.DynamicOutput[str]]:
    """The body of an op whose step ends in a foreach outside of any other."""
    yield from completed(context, pipes, flow, step, upstream, StepOptions(**options)).items()


def run_switch_step(
    context: dg.OpExecutionContext,
    pipes: MetaflowPipesClient,
    flow: MetaflowFlow,
    step: str,
    upstream: str | Sequence[str] = (),
    *,
    outputs: Mapping[str, str],
    **options: Any,
) -> Iterator[dg.Output[str]]:
    """The body of an op whose step ends in a switch."""
    yield completed(context, pipes, flow, step, upstream, StepOptions(**options)).choice(outputs)


def run_routed_step(
    context: dg.OpExecutionContext,
    pipes: MetaflowPipesClient,
    flow: MetaflowFlow,
    step: str,
    upstream: str | Sequence[str] = (),
    **options: Any,
) -> str:
    """The body of an op whose step, within a foreach, ends in a switch."""
    return completed(context, pipes, flow, step, upstream, StepOptions(**options)).way


def run_loop_step(
    context: dg.OpExecutionContext,
    pipes: MetaflowPipesClient,
    flow: MetaflowFlow,
    step: str,
    upstream: str | Sequence[str] = (),
    *,
    outputs: Mapping[str, str] | None = None,
    is_routed: bool = False,
    max_retries: int = 0,
    retry_delay_seconds: int = 0,
    **options: Any,
) -> Iterator[dg.Output[str]]:
    """The body of an op whose step can go on to itself."""
    retries = dg.RetryPolicy(max_retries=max_retries, delay=retry_delay_seconds)
    report = completed(context, pipes, flow, step, upstream, StepOptions(**options), retries)
    if outputs:
        yield report.choice(outputs)
    else:
        yield dg.Output(report.way if is_routed else report.path)
