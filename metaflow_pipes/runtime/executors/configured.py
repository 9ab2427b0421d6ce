"""Executors with defaults of a deployment for their config (`create --executor-config`)."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._config import validate_config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dagster import ExecutorDefinition


def with_executor_config(executor: ExecutorDefinition, config: Mapping[str, Any]) -> ExecutorDefinition:
    """An executor whose config has other defaults: what a run config has under `execution: {config: ...}` ranks above.

    The same arguments give the same executor: `dg.Definitions.merge` takes several definitions only if they have one.

    Args:
        executor: The executor.
        config: A value for each of some fields of its config, whole.
    """
    return _with_defaults(executor, json.dumps(config))


@functools.cache
def _with_defaults(executor: ExecutorDefinition, config: str) -> ExecutorDefinition:
    return dg.ExecutorDefinition(
        name=executor.name,
        config_schema=_schema(executor.config_schema.config_type, json.loads(config)),
        requirements=executor.get_requirements,
        executor_creation_fn=executor.executor_creation_fn,
        description=executor.description,
    )


def _schema(config_type: Any, config: Mapping[str, Any]) -> Any:
    """A schema with other defaults."""
    if isinstance(config_type, dg.Selector):
        return dg.Field(config_type, default_value=config, is_required=False)
    fields: Mapping[str, Any] = getattr(config_type, "fields", {})
    defaults = {}
    for name, value in config.items():
        field = fields.get(name)
        described = None if field is None else field.description
        type_ = dg.Any if field is None else field.config_type
        defaults[name] = dg.Field(type_, default_value=value, is_required=False, description=described)
    schema = {**fields, **defaults}
    return schema if fields and fields.keys() >= defaults.keys() else dg.Permissive(schema)


def problems_of(executor: ExecutorDefinition, config: Mapping[str, Any]) -> list[str]:
    """The problems for which an executor refuses a config, as sentences; none if it takes it.

    Args:
        executor: The executor.
        config: The config, in which variables of the environment are not looked up.
    """
    errors = validate_config(executor.config_schema.config_type, dict(config)).errors or []
    # a field that is missing at the top, the run config can have
    return [e.message for e in errors if e.stack.entries or not e.reason.name.startswith("MISSING_REQUIRED_FIELD")]
