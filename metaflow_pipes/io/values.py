"""The values between the ops of a flow: short texts, kept in the event log as metadata of the outputs.

They need no disk that workers share, and belong to one run: whatever else runs at the same time, and whichever
assets the ops stand for.
"""

from __future__ import annotations

import base64
import threading
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# The metadata of an output that hold its text: as it is, or compressed.
VALUE = "value"
COMPRESSED_VALUE = "compressed_value"
# The metadata that tells the values of a dynamic output apart.
MAPPING_KEY = "mapping_key"
# Longer texts are compressed: the run page loads every event of a run, so none may be large.
MAX_PLAIN_CHARACTERS = 1000
# The runs whose texts a process keeps: a process runs one, or a few at once, and loads from those that it goes on with.
MAX_KNOWN_RUNS = 32
# How many events are read at once, the newest first: what an op takes was mostly put out just before.
PAGE = 200


@dataclass(frozen=True)
class Output:
    """An output of an op in one run.

    Attributes:
        step_key: The key of the Dagster step.
        name: The output's name.
        mapping_key: The mapping key of a dynamic output's value, or None.
    """

    step_key: str
    name: str
    mapping_key: str | None = None


def metadata_of(text: str, mapping_key: str | None) -> dict[str, dg.MetadataValue]:
    """The metadata that hold a text.

    Args:
        text: The text; one of more than `MAX_PLAIN_CHARACTERS` is compressed.
        mapping_key: The mapping key, if it is a value of a dynamic output.
    """
    key = {} if mapping_key is None else {MAPPING_KEY: dg.MetadataValue.text(mapping_key)}
    if len(text) <= MAX_PLAIN_CHARACTERS:
        return {VALUE: dg.MetadataValue.text(text), **key}
    compressed = base64.b85encode(zlib.compress(text.encode())).decode()
    return {COMPRESSED_VALUE: dg.MetadataValue.text(compressed), **key}


def _text_in(metadata: Mapping[str, dg.MetadataValue], name: str) -> str | None:
    value = metadata.get(name)
    return value.text if isinstance(value, dg.TextMetadataValue) else None


class RunValues:
    """The texts that runs have put out, as far as this process knows them; of others it asks the event log."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: OrderedDict[str, dict[Output, str]] = OrderedDict()

    def remember(self, run_id: str, output: Output, text: str) -> None:
        """Keep a text that this process puts out.

        Args:
            run_id: The Dagster run.
            output: The output.
            text: The text.
        """
        with self._lock:
            self._of_run(run_id)[output] = text

    def load(self, instance: dg.DagsterInstance, run_id: str, output: Output) -> str:
        """A text that a run has put out.

        Args:
            instance: Dagster's instance, whose event log has the run.
            run_id: The Dagster run.
            output: The output.

        Raises:
            dagster.Failure: The event log does not have it.
        """
        with self._lock:
            found = self._of_run(run_id).get(output)
        if found is not None:
            return found
        for page in _pages_of_log(instance, run_id):
            with self._lock:
                texts = self._of_run(run_id)
                for other, text in page:
                    # a later attempt of an op comes first here
                    texts.setdefault(other, text)
                if output in texts:
                    return texts[output]
        raise dg.Failure(
            f"The event log of Dagster run {run_id} does not have the value of output {output.name} of step "
            f"{output.step_key}: it was deleted, or stored in another way by another version of metaflow-pipes. Go on "
            f"with the run by `python flow.py dagster resume`, or launch the flow anew.",
            allow_retries=False,
        )

    def _of_run(self, run_id: str) -> dict[Output, str]:
        texts = self._texts.setdefault(run_id, {})
        self._texts.move_to_end(run_id)
        while len(self._texts) > MAX_KNOWN_RUNS:
            self._texts.popitem(last=False)
        return texts


def _pages_of_log(instance: dg.DagsterInstance, run_id: str) -> Iterator[list[tuple[Output, str]]]:
    """The outputs of a run, the newest first, each with its text, in the pages in which they are read."""
    cursor: str | None = None
    while True:
        page = instance.get_records_for_run(
            run_id, cursor, of_type=dg.DagsterEventType.HANDLED_OUTPUT, limit=PAGE, ascending=False
        )
        yield [found for record in page.records if (found := _output_in(record.event_log_entry)) is not None]
        if not page.has_more:
            return
        cursor = page.cursor


def _output_in(entry: dg.EventLogEntry) -> tuple[Output, str] | None:
    """The output and the text that an event tells of; None if it is the output of an asset."""
    event = entry.dagster_event
    if event is None or event.step_key is None:
        return None
    data: Any = event.event_specific_data
    text, compressed = (_text_in(data.metadata, name) for name in (VALUE, COMPRESSED_VALUE))
    if compressed is not None:
        text = zlib.decompress(base64.b85decode(compressed)).decode()
    if text is None:
        return None
    return Output(event.step_key, data.output_name, _text_in(data.metadata, MAPPING_KEY)), text
