"""Forwards the `logging` records of the step's code to Dagster's event log."""

from __future__ import annotations

import functools
import logging
import traceback
from typing import TYPE_CHECKING

from step_wrapper.report.exceptions import shortened, skip_framework

if TYPE_CHECKING:
    from dagster_pipes import PipesContext

# The event log of a run is kept for ever, and its page loads all of it: a flood of records stays in stderr.
MAX_RECORDS = 200
MAX_CHARACTERS = 4_000


def forward_records(context: PipesContext, level: int) -> None:
    """Send each record of this process, and of those that it forks, to Dagster too.

    It wraps the method that hands records to handlers. A handler of the root logger would be seen:
    `logging.basicConfig()` does nothing if there is one, and records of loggers without any would no longer
    be printed to stderr.

    Args:
        context: The open Pipes session.
        level: The lowest level that is sent, as a number of `logging`.
    """
    forwarder = _Forwarder(context, level)
    call_handlers = logging.Logger.callHandlers

    @functools.wraps(call_handlers)
    def call_handlers_and_forward(self: logging.Logger, record: logging.LogRecord) -> None:
        forwarder.forward(record)
        call_handlers(self, record)

    logging.Logger.callHandlers = call_handlers_and_forward


class _Forwarder:
    def __init__(self, context: PipesContext, level: int):
        self._log = context.log
        self._level = level
        self._count = 0

    def forward(self, record: logging.LogRecord) -> None:
        if record.levelno < self._level or record.name == self._log.name:
            return
        self._count += 1
        if self._count > MAX_RECORDS:
            return
        try:
            text = _text(record)
        except Exception:  # the record's own arguments and exception, which may raise anything when they are shown
            return  # as elsewhere in `logging`, the handlers of the step's code say so
        try:
            self._log.log(_standard_level(record.levelno), text)
            if self._count == MAX_RECORDS:
                self._log.warning(
                    f"The step has logged {MAX_RECORDS} records: what follows is in its stderr and its own logs alone."
                )
        except (OSError, ValueError):  # the channel is full, or the step's code has closed it: logging must not fail
            self._count = MAX_RECORDS


def _standard_level(number: int) -> int:
    """The highest of the standard levels, which Dagster knows, that is not above a level."""
    levels = (logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO)
    return next((level for level in levels if number >= level), logging.DEBUG)


def _text(record: logging.LogRecord) -> str:
    text = f"{record.name}: {record.getMessage()}"
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        shown = skip_framework(error.__traceback__)
        text += "\n" + "".join(traceback.format_exception(type(error), error, shown)).rstrip()
    return shortened(text, MAX_CHARACTERS)
