"""`python flow.py dagster publish`: events, from the shell."""

from __future__ import annotations

import json
from typing import Any

from metaflow._vendor import click

from metaflow_pipes.cli.command import Command, DagsterException


@click.command(cls=Command, help="Publish an event: it starts the flows that wait for it by @trigger.")
@click.argument("event")
@click.option(
    "--payload",
    "pairs",
    multiple=True,
    metavar="FIELD=VALUE",
    help="A field of the event. The value is JSON, as in rows=3, or else a text. Can be given several times.",
)
@click.option("--payload-json", default=None, metavar="JSON", help="Fields of the event, as one JSON object.")
@click.option(
    "--url",
    default=None,
    help="The address of a Dagster webserver. [default: DAGSTER_WEBSERVER_URL, else the instance of DAGSTER_HOME]",
)
@click.pass_obj
def publish(obj: Any, event: str, pairs: tuple[str, ...], payload_json: str | None, url: str | None) -> None:
    """Publish an event."""
    from metaflow_pipes.names import is_event_name
    from metaflow_pipes.runs.connect import connect
    from step_wrapper.wire import stamped

    if not is_event_name(event):
        raise DagsterException(f"{event!r} is no name of an event: it is a text such as data_ready.")
    fields = stamped(event, {**_fields(payload_json), **dict(map(_field, pairs))})
    service = connect(url)
    service.publish(event, fields)
    obj.echo_always(
        f"Event {event} is published to {service}: {fields['id']}", no_bold=True, highlight=None, fg="green"
    )


def _fields(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise DagsterException(f"--payload-json {text!r} is no JSON: {error}.") from None
    if not isinstance(fields, dict):
        raise DagsterException(f'--payload-json {text!r} is no JSON object: {{"field": value}}.')
    return fields


def _field(pair: str) -> tuple[str, Any]:
    name, equals, text = pair.partition("=")
    if not name or not equals:
        raise DagsterException(f"--payload {pair!r} is not of the form FIELD=VALUE.")
    try:
        return name, json.loads(text)
    except ValueError:
        return name, text
