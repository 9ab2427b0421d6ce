"""The executors that a generated job can run on."""

from __future__ import annotations

import dagster as dg


def multiprocess(max_concurrent: int | None = None) -> dg.ExecutorDefinition:
    """Dagster's multiprocess executor, with processes that start fast: they are forked from one that has dagster.

    Args:
        max_concurrent: How many ops run at the same time; None is Dagster's default, the number of CPUs. The
            run config `execution: {config: {max_concurrent: 4}}` overrides it.
    """
    limit = dg.Field(
        dg.Noneable(int),
        default_value=max_concurrent,
        description="How many steps run at the same time; by default as many as there are CPUs.",
    )

    @dg.configured(dg.multiprocess_executor, config_schema={"max_concurrent": limit})
    def multiprocess_executor(config: dict[str, int | None]) -> dict[str, object]:
        start_method = {"forkserver": {"preload_modules": ["dagster", "metaflow_pipes.runtime"]}}
        return {"max_concurrent": config["max_concurrent"], "start_method": start_method}

    return multiprocess_executor
