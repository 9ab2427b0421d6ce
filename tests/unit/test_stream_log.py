"""A stream's log: Metaflow finds in it the lines that the step wrote, whatever they are and however they come."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st
from metaflow.mflog.mflog import merge_logs

from step_wrapper import logs
from step_wrapper.logs import StreamLog, log_path, tail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# Bytes that mean something to Metaflow's format, to terminals or to Python, among any others.
PIECES = st.sampled_from([b"\n", b"\r", b"\0", b"]", b"[MFLOG|0|", b"[!", b"\xff\xfe", "ü\u2028".encode(), b"x" * 5000])
CHUNKS = st.lists(st.lists(PIECES | st.binary(max_size=8), min_size=1).map(b"".join))


@contextmanager
def _stream() -> Iterator[tuple[StreamLog, Callable[[bytes], object], Path, Path]]:
    """A log, the step's way of writing to it, its file, and the file to which it passes the bytes on."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reader, writer = os.pipe()
        passed = os.open(folder / "passed", os.O_CREAT | os.O_WRONLY)
        log = StreamLog("stdout", reader, passed, folder, on_unread=lambda stream: None)

        def write(chunk: bytes) -> None:
            while chunk:
                chunk = chunk[os.write(writer, chunk[:60_000]) :]
                while log.pump():
                    pass

        try:
            yield log, write, log_path(folder, "stdout"), folder / "passed"
        finally:
            log.close()
            os.close(writer)
            os.close(passed)


def _lines_of(chunks: Iterable[bytes]) -> list[bytes]:
    *lines, rest = b"".join(chunks).split(b"\n")
    return [*lines, rest] if rest else lines


def _messages(file: Path) -> list[bytes]:
    return [line.msg for line in merge_logs([file.read_bytes()])]


@settings(deadline=None)
@given(CHUNKS)
def test_metaflow_reads_the_lines_that_were_written(chunks):
    with _stream() as (log, write, file, passed):
        for chunk in chunks:
            write(chunk)
        log.drain()
        assert _messages(file) == _lines_of(chunks)
        assert passed.read_bytes() == b"".join(chunks)


@settings(deadline=None)
@given(CHUNKS, CHUNKS)
def test_metaflow_reads_a_log_that_is_still_being_written(before, after):
    with _stream() as (log, write, file, _):
        for chunk in before:
            write(chunk)
        log.flush()
        assert _messages(file) == _lines_of(before)
        for chunk in after:
            write(chunk)
        log.drain()
        assert _messages(file) == _lines_of([*before, *after])


def test_lines_keep_their_order_whatever_the_clock_does(monkeypatch):
    lines = [b"%d" % number for number in reversed(range(20_000))]
    times = iter([2_000_000_000, 1_000_000_000, 1_000_000_000])
    monkeypatch.setattr(logs.time, "time_ns", lambda: next(times, 0))
    with _stream() as (log, write, file, _):
        write(b"\n".join(lines))
        log.drain()
        assert _messages(file) == lines


def test_unfinished_line_is_passed_on_and_kept_as_it_comes():
    with _stream() as (log, write, file, passed):
        write(b"10 %")
        assert passed.read_bytes() == b"10 %"
        log.flush()
        assert _messages(file) == [b"10 %"]
        write(b"\r20 %\n")
        log.drain()
        assert _messages(file) == [b"10 %\r20 %"]


def test_tail_shows_lines_as_a_terminal_does():
    with _stream() as (log, write, file, _):
        write(b"first\n" + b"x" * 100_000 + b"\n1 %\r2 %\r\n[a] \xff last")
        log.drain()
        assert tail(file, 2) == "2 %\n[a] \ufffd last"
        assert tail(file, 3).splitlines()[0].strip("x") == ""


def test_reader_that_pauses_is_waited_for_once_and_gets_what_comes_when_it_reads_again(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "PASS_ON_SECONDS", 0.2)
    passed_reader, passed_writer = os.pipe()
    reader, writer = os.pipe()
    unread: list[str] = []
    log = StreamLog("stdout", reader, passed_writer, tmp_path, unread.append)
    lines = [b"%04d" % number * 5000 for number in range(20)]
    waits: list[float] = []
    for line in lines:
        os.write(writer, line + b"\n")
        started = time.monotonic()
        log.pump()
        waits.append(time.monotonic() - started)
    assert unread == ["stdout"]
    # for all that did not fit: each one by itself would have made that 3 s
    assert 0.2 <= sum(waits) < 1.5
    os.set_blocking(passed_reader, False)
    assert os.read(passed_reader, 1 << 20).startswith(lines[0])
    os.write(writer, b"again\n")
    log.drain()
    assert os.read(passed_reader, 1 << 20).endswith(b"again\n")
    assert _messages(log_path(tmp_path, "stdout")) == [*lines, b"again"]
    # neither is the other side's descriptor changed, which its other users share
    assert os.get_blocking(passed_writer)
    log.close()
    for descriptor in (writer, passed_reader, passed_writer):
        os.close(descriptor)
