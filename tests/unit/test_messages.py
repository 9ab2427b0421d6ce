"""Whatever a step does to the file of its messages, what can be used of it is, and the rest is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaflow_pipes.runtime.client.messages import MAX_MESSAGE_BYTES, MessageReader


class Handler:
    """Takes messages as Dagster's does, and refuses those that it refuses."""

    def __init__(self) -> None:
        self.payloads: list[Any] = []
        self.warnings: list[str] = []

    def handle_message(self, message: Any) -> None:
        if message["method"] == "log":
            self.warnings.append(message["params"]["message"])
        else:
            assert message["method"] == "report_custom_message", "unknown method"
            self.payloads.append(message["params"]["payload"])


def _message(payload: object) -> bytes:
    return json.dumps({"method": "report_custom_message", "params": {"payload": payload}}).encode() + b"\n"


def _read(*writes: Any) -> Handler:
    """The lines read of a file that is written to, or that is otherwise dealt with, in steps."""
    handler: Any = Handler()
    with MessageReader().read_messages(handler) as params:
        path = Path(params["path"])
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        for write in writes:
            if callable(write):
                write(path)
            else:
                with path.open("ab") as file:
                    file.write(write)
    assert not path.parent.exists()
    return handler


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(), max_size=5), st.integers(1, 50))
def test_messages_arrive_in_order_in_whatever_pieces_they_are_written(payloads, size):
    data = b"".join(map(_message, payloads))
    handler = _read(*(data[start : start + size] for start in range(0, len(data), size)))
    assert handler.payloads == payloads
    assert handler.warnings == []


@pytest.mark.parametrize(
    "garbage", [b"\xff\xfe\n", b"{}\n", b"[1]\n", b"null\n", b'{"method": "nothing"}\n', b"{\n", b'"' * 99 + b"\n"]
)
def test_garbage_is_named_and_passed_over(garbage):
    handler = _read(_message(1), garbage, _message(2))
    assert handler.payloads == [1, 2]
    (warning,) = handler.warnings
    assert warning.startswith("A message that the step sent to Dagster can't be used: ")


def test_message_that_is_too_long_is_refused():
    handler = _read(_message(1), _message("x" * 3 * MAX_MESSAGE_BYTES), _message(2))
    assert handler.payloads == [1, 2]
    assert any("longer than 1000000 bytes" in warning for warning in handler.warnings)
    assert max(map(len, handler.warnings)) <= 500


def test_unfinished_line_at_the_end():
    handler = _read(_message(1), _message(2).rstrip(b"\n"))
    assert handler.payloads == [1, 2]
    assert _read(_message(1), _message(2)[:20]).payloads == [1]


def test_file_that_is_deleted_replaced_or_cut():
    assert _read(Path.unlink).payloads == []
    assert _read(Path.unlink, _message(2)).payloads == [2]
    assert _read(lambda path: path.write_bytes(b""), _message(2)).payloads == [2]
    assert _read(lambda path: (path.unlink(), path.mkdir())).payloads == []
