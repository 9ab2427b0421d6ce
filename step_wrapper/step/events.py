"""Events that code written for Argo Workflows publishes: within a step they go to Dagster, through Pipes."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

from step_wrapper import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Each of Metaflow's processes has imported this with its plugins.
ARGO_EVENTS = "metaflow.plugins.argo.argo_events"


def publish_argo_events_here() -> None:
    """Let `ArgoEvent(...).publish()` and `.safe_publish()` in this process publish to Dagster.

    An event with an address of its own still goes there.
    """
    argo_events: Any = sys.modules.get(ARGO_EVENTS)
    if argo_events is not None and not hasattr(argo_events.ArgoEvent.publish, "__wrapped__"):
        argo_events.ArgoEvent.publish = _publishing(argo_events)


def _publishing(argo_events: Any) -> Callable[..., str | None]:
    """The method `publish` of `ArgoEvent` with another receiver."""
    to_argo = argo_events.ArgoEvent.publish

    @functools.wraps(to_argo)
    def publish(
        self: Any, payload: Mapping[str, Any] | None = None, force: bool = True, ignore_errors: bool = True
    ) -> str | None:
        if self._url not in (None, argo_events.ARGO_EVENTS_WEBHOOK_URL):
            return to_argo(self, payload=payload, force=force, ignore_errors=ignore_errors)
        try:
            fields = wire.stamped(self._name, {**self._payload, **(payload or {})})
            _send(self._name, fields)
        except Exception as error:  # of any kind, as the method does: the payload is the step's own
            message = f"Unable to publish event {self._name} to Dagster: {error}"
            if not ignore_errors:
                raise argo_events.ArgoEventException(message) from error
            print(message, file=sys.stderr)
            return None
        return str(fields["id"])

    return publish


def _send(name: str, payload: Mapping[str, Any]) -> None:
    # a process that the step's own has started has no session yet, and finds the same one
    from dagster_pipes import PipesContext, open_dagster_pipes

    context = PipesContext.get() if PipesContext.is_initialized() else open_dagster_pipes()
    context.report_custom_message(wire.event_message(name, payload))
