"""The times at which a trigger drops the events that wait for others (`options={"reset_at": ...}`)."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from dagster._utils.schedules import reverse_cron_string_iterator  # as Dagster's own schedules read a cron


@dataclass(frozen=True)
class Resets:
    """Resets by a cron expression.

    Attributes:
        cron: The expression, of five fields.
        timezone: The time zone.
    """

    cron: str
    timezone: str

    def last_before(self, timestamp: float) -> float:
        """The last reset at or before a time, both in seconds since 1970."""
        return _last_before(self.cron, self.timezone, int(timestamp // 60))


@functools.lru_cache(maxsize=1024)
def _last_before(cron: str, timezone: str, minute: int) -> float:
    return next(reverse_cron_string_iterator(minute * 60.0, cron, timezone)).timestamp()
