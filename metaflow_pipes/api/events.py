"""Events that start flows on Dagster, published from Python: in a step, in any other process."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from metaflow_pipes.errors import DeploymentError
from metaflow_pipes.names import is_event_name
from step_wrapper import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# By these, a process knows that it is in a step that an op of this package has launched.
_IN_STEP = {"METAFLOW_RUNTIME_NAME": "dagster"}
_PIPES_VARIABLES = ("DAGSTER_PIPES_CONTEXT", "DAGSTER_PIPES_MESSAGES")


class DagsterEvent:
    """A small message that starts the flows which wait for it by `@trigger`, as Metaflow's `ArgoEvent`.

    It is published where a flow's runs are: within a step on Dagster, to that Dagster; else to the webserver of `url`
    or of `DAGSTER_WEBSERVER_URL`; else to the Dagster instance of `DAGSTER_HOME`.

    Args:
        name: The event's name, or a function without arguments that gives it, such as `namespaced_event_name("foo")`.
        url: The address of a Dagster webserver.
        payload: Its fields. They set the parameters of the flows that it starts.

    Example:
        ```python
        from metaflow_pipes import DagsterEvent

        DagsterEvent("data_ready").publish(payload={"rows": 3})
        ```
    """

    def __init__(self, name: str | Callable[[], str], url: str | None = None, payload: Mapping[str, Any] | None = None):
        self._name = name() if callable(name) else name
        if not isinstance(self._name, str) or not is_event_name(self._name):
            raise DeploymentError(f"{self._name!r} is no name of an event: it is a text such as data_ready.")
        self._url = url
        self._payload = dict(payload or {})

    def add_to_payload(self, key: str, value: Any) -> DagsterEvent:
        """Add a field to the payload, in place of one of that name.

        Args:
            key: The field's name, often that of a parameter.
            value: Its value: whatever JSON can hold.
        """
        self._payload[key] = value
        return self

    def safe_publish(self, payload: Mapping[str, Any] | None = None, ignore_errors: bool = True) -> str | None:
        """Publish the event within a step on Dagster; elsewhere, as in a local run, only say that it was not.

        Args:
            payload: More fields.
            ignore_errors: As for `publish`.

        Returns:
            As `publish`.
        """
        return self.publish(payload, force=False, ignore_errors=ignore_errors)

    def publish(
        self, payload: Mapping[str, Any] | None = None, force: bool = True, ignore_errors: bool = True
    ) -> str | None:
        """Publish the event. It does not wait for the flows that it starts.

        Args:
            payload: More fields.
            force: Whether to publish it outside of steps on Dagster, too.
            ignore_errors: Whether an event that can't be published is no error: then only a line on stderr says so.

        Returns:
            The id of the event, by which the runs that it starts name it; None if it was not published.

        Raises:
            DeploymentError: It can't be published, and errors are not ignored.
        """
        try:
            if not force and not _is_in_step():
                raise DeploymentError(
                    "this is no step of a run on Dagster. `publish` in place of `safe_publish` publishes it anyway."
                )
            return self._publish({**self._payload, **(payload or {})})
        except (DeploymentError, TypeError, ValueError) as error:
            message = f"Event {self._name} was not published: {error}"
            if not ignore_errors:
                raise DeploymentError(message) from error
            print(message, file=sys.stderr)
            return None

    def _publish(self, payload: Mapping[str, Any]) -> str:
        fields = wire.stamped(self._name, payload)
        message = wire.event_message(self._name, fields)
        if self._url is None and _is_in_step():
            from dagster_pipes import PipesContext, open_dagster_pipes

            # a process that the step's own has started has no session yet, and finds the same one
            context = PipesContext.get() if PipesContext.is_initialized() else open_dagster_pipes()
            context.report_custom_message(message)
        else:
            from metaflow_pipes.runs.connect import connect

            connect(self._url).publish(self._name, fields)
        return str(fields["id"])


def _is_in_step() -> bool:
    """Whether this process is in a step that an op of this package has launched."""
    is_ours = all(os.environ.get(variable) == value for variable, value in _IN_STEP.items())
    return is_ours and all(variable in os.environ for variable in _PIPES_VARIABLES)
