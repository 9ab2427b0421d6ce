"""The resources of a run, as the contexts of its ops have them."""

from __future__ import annotations

import dagster as dg
import pytest
from dagster._config.pythonic_config import IAttachDifferentObjectToOpContext
from dagster._core.definitions.scoped_resources_builder import IContainsGenerator, ScopedResourcesBuilder

from metaflow_pipes.runtime.executors.resources import _KeptScopes


class Counter(dg.ConfigurableResource, IAttachDifferentObjectToOpContext):
    """A resource of which each context gets an object of its own."""

    def get_object_to_set_on_execution_context(self) -> object:
        """A new object."""
        return object()


@pytest.mark.parametrize("keys", [None, set(), {"a"}, {"a", "b"}, {"a", "unknown"}])
@pytest.mark.parametrize("contains_generator", [False, True])
def test_a_scope_is_that_of_dagster_and_made_once(keys: set[str] | None, contains_generator: bool) -> None:
    resources = {"a": object(), "b": object(), "c": object()}
    builder = _KeptScopes(resources, contains_generator)
    scope = builder.build(keys)
    of_dagster = ScopedResourcesBuilder(resources, contains_generator).build(keys)
    assert scope._asdict() == of_dagster._asdict()
    assert scope.original_resource_dict == of_dagster.original_resource_dict
    assert isinstance(scope, IContainsGenerator) == contains_generator
    assert builder.build(keys) is scope


def test_a_resource_that_gives_each_context_an_object_goes_on_to() -> None:
    builder = _KeptScopes({"counter": Counter(), "other": object()}, False)
    first, second = (builder.build({"counter", "other"}) for _ in range(2))
    assert first.counter is not second.counter
    assert builder.build({"other"}) is builder.build({"other"})
