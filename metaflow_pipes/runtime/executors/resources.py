"""The resources of a run, as the contexts of its ops have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dagster._config.pythonic_config import IAttachDifferentObjectToOpContext
from dagster._core.definitions.scoped_resources_builder import Resources, ScopedResourcesBuilder
from dagster._core.execution.resources_init import resource_initialization_manager

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from dagster._utils import EventGenerationManager


def resources_scoped_once(*arguments: Any, **options: Any) -> EventGenerationManager[ScopedResourcesBuilder]:
    """Initialize the resources of a run, as Dagster's `resource_initialization_manager`; scopes of them are kept."""
    manager = resource_initialization_manager(*arguments, **options)
    made = manager.get_object
    manager.get_object = lambda: _KeptScopes(*made())
    return manager


class _KeptScopes(ScopedResourcesBuilder):
    """Those of a run's resources that a context asks for.

    Dagster makes a class, and an object of it, for each of the six contexts of an op: 6 % of what an op takes.
    """

    def build(self, required_resource_keys: AbstractSet[str] | None) -> Resources:
        """The resources with these keys; the same object for the same keys."""
        kept: dict[frozenset[str], Resources] = self.__dict__.setdefault("kept", {})
        keys = frozenset(required_resource_keys or ())
        if keys not in kept:
            scope = super().build(required_resource_keys)
            if any(
                isinstance(resource, IAttachDifferentObjectToOpContext)
                for resource in scope.original_resource_dict.values()
            ):
                # it may give each context another object
                return scope
            kept[keys] = scope
        return kept[keys]
