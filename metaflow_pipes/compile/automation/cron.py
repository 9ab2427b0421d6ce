"""Cron expressions of `@schedule`, in the five fields that Dagster takes.

Metaflow documents those of AWS EventBridge: six fields, the last one a year. Quartz has a field for seconds before
them, and may leave the year out. Both count weekdays from 1, Sunday, where cron counts from 0. An expression of five
fields, or a name such as `@daily`, is cron already.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import chain
from typing import Literal
from zoneinfo import ZoneInfo

MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
WEEKDAY_NAMES = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
# What stands for any value of a field.
_ANY = ("*", "?")
_YEAR = re.compile(r"\d{4}([-,/]\d{1,4})*|\*/\d+")
_MINUTES_PER_HOUR = 60


def is_time_zone(name: str) -> bool:
    """Whether the IANA database has a time zone of a name."""
    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        return False
    return True


class CronError(ValueError):
    """An expression that Dagster's five fields can't hold; its text says which field, why, and how to mend it."""


@dataclass(frozen=True)
class Cron:
    """A cron expression for Dagster.

    Attributes:
        text: Five fields, or a name such as `@daily`.
        dialect: Which expression it was: `AWS`, `Quartz` or `cron`.
        has_translated_weekdays: Whether numbers of weekdays are not those of the expression.
        is_ambiguous: Whether the expression could have been one of Quartz, of another meaning.
    """

    text: str
    dialect: Literal["AWS", "Quartz", "cron"]
    has_translated_weekdays: bool = False
    is_ambiguous: bool = False


@dataclass(frozen=True)
class _Field:
    """A field of AWS and Quartz: the range of its numbers there, and the names for them."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()


_MINUTE, _HOUR = _Field("minute", 0, 59), _Field("hour", 0, 23)
_DAY, _MONTH = _Field("day of month", 1, 31), _Field("month", 1, 12, MONTHS)
_WEEKDAY = _Field("day of week", 1, 7, WEEKDAYS)


def translate(expression: str) -> Cron:
    """Translate a cron expression.

    Args:
        expression: An expression of AWS, Quartz or cron.

    Raises:
        CronError: It is none, or Dagster can't hold it.
    """
    fields = expression.split()
    if len(fields) == 1 and fields[0].startswith("@"):
        return Cron(fields[0].lower(), "cron")
    if len(fields) == 5:
        return Cron(" ".join("*" if field == "?" else field for field in fields), "cron")
    if len(fields) not in (6, 7):
        raise CronError(
            f"it has {len(fields)} field{'' if len(fields) == 1 else 's'}. Write the six of AWS (minute, hour, day of "
            "month, month, day of week, year), as in `0 10 * * ? *`, or the five of cron, as in `0 10 * * *`"
        )
    has_seconds = len(fields) == 7 or _begins_with_seconds(fields)
    seconds = fields.pop(0) if has_seconds else "0"
    year = fields.pop() if len(fields) == 6 else "*"
    if seconds not in ("0", "00"):
        raise CronError(
            f"the field second is `{seconds}`, but Dagster's schedules start on full minutes. Write `0` there"
        )
    if year != "*":
        raise CronError(
            f"the field year is `{year}`, but Dagster's schedules hold for all years. Write `*` there, and end the "
            "schedule with `dagster suspend` or `dagster delete`"
        )
    minute, hour, day, month, weekday = fields
    if day not in _ANY and weekday not in _ANY:
        raise CronError(
            f"it has both a day of month, `{day}`, and a day of week, `{weekday}`, which AWS and Quartz do not allow. "
            "Write `?` for one of them; or write the five fields of cron, where a day that fits either of them counts"
        )
    translated = (
        _field(_MINUTE, minute),
        _field(_HOUR, hour),
        _day(day),
        _field(_MONTH, month),
        _weekday(weekday),
    )
    return Cron(
        text=" ".join(translated),
        dialect="Quartz" if has_seconds else "AWS",
        has_translated_weekdays=bool(re.search(r"(?<!#)\b\d", weekday.partition("/")[0])),
        is_ambiguous=not has_seconds and _may_have_seconds([*fields, year]),
    )


def in_words(text: str) -> str | None:
    """The words for a simple cron expression, as in `every day at 10:00`; None for one that is not simple.

    Args:
        text: As `Cron.text`.
    """
    text = {"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0"}.get(
        text, text
    )
    fields = text.split()
    if len(fields) != 5 or fields[3] != "*":
        return None
    minute, hour, day, _, weekday = fields
    if hour == "*":
        return _within_hours(minute) if (day, weekday) == ("*", "*") else None
    if not (minute.isdecimal() and hour.isdecimal()):
        return None
    time = f"{int(hour):02}:{int(minute):02}"
    if weekday == "*":
        if day == "*":
            return f"every day at {time}"
        return f"on day {day} of each month at {time}" if day.isdecimal() else None
    days = _weekday_words(weekday) if day == "*" else None
    return None if days is None else f"{days} at {time}"


def _within_hours(minute: str) -> str | None:
    if minute == "*":
        return "every minute"
    if minute.isdecimal():
        return "every hour" if int(minute) == 0 else f"every hour at minute {int(minute)}"
    step = minute.removeprefix("*/")
    if step != minute and step.isdecimal() and _MINUTES_PER_HOUR % int(step) == 0:
        return f"every {step} minutes"
    return None


def _weekday_words(weekday: str) -> str | None:
    def name(text: str) -> str | None:
        if text.upper() in WEEKDAYS:
            return WEEKDAY_NAMES[WEEKDAYS.index(text.upper())]
        return WEEKDAY_NAMES[int(text) % 7] if text.isdecimal() and int(text) <= 7 else None

    first, dash, last = weekday.partition("-")
    names = [name(first), name(last)] if dash else [name(item) for item in weekday.split(",")]
    known = [item for item in names if item is not None]
    if len(known) != len(names):
        return None
    return f"from {known[0]} to {known[1]}" if dash else f"every {', '.join(known)}"


def _begins_with_seconds(fields: list[str]) -> bool:
    """Whether six fields are those of Quartz without a year, rather than those of AWS.

    The `?` of one of the days tells. Without one, they are those of AWS unless their last field can be no year.

    Raises:
        CronError: There is a `?` where neither has a day.
    """
    marks = {index for index, field in enumerate(fields) if field == "?"}
    if marks <= {2, 4}:
        return not marks and not _is_year(fields[5])
    if marks <= {3, 5}:
        return True
    raise CronError(
        "there is a `?` in a field that is no day. Of the six fields of AWS (minute, hour, day of month, month, day of "
        "week, year), the third or the fifth can be `?`; all others have `*` for any value"
    )


def _may_have_seconds(fields: list[str]) -> bool:
    """Whether six fields of AWS could be meant as those of Quartz, with another meaning."""
    return "?" not in fields and fields[0] in ("0", "00") and fields[2:] != ["*", "*", "*", "*"]


def _is_year(text: str) -> bool:
    return text == "*" or _YEAR.fullmatch(text) is not None


def _field(field: _Field, text: str) -> str:
    """A field of AWS or Quartz as cron has it: `0/15` is `*/15`, and ranges do not wrap."""
    if text == "*":
        return "*"
    return ",".join(_item(field, item) for item in text.split(","))


def _item(field: _Field, text: str) -> str:
    """An item of a list in a field."""
    span, slash, step = text.partition("/")
    if slash and not (step.isdecimal() and 1 <= int(step) <= field.high - field.low + 1):
        raise _not_valid(field, text)
    first, dash, last = span.partition("-")
    low, high = _bounds(field, text, first, last if dash else None, has_step=bool(slash))
    if low > high:  # over the end of the range
        numbers = [*range(low, field.high + 1), *range(field.low, high + 1)][:: int(step or 1)]
        return ",".join(map(str, sorted(numbers)))
    if not slash:
        return span.upper() if field.names else span
    spanned = "*" if (low, high) == (field.low, field.high) else f"{low}-{high}"
    return f"{spanned}/{int(step)}"


def _bounds(field: _Field, text: str, first: str, last: str | None, *, has_step: bool) -> tuple[int, int]:
    """The first and the last number of an item: of `5/15`, the last is that of the field."""
    if first == "*" and last is None and has_step:
        return field.low, field.high
    low = _number(field, text, first)
    if last is not None:
        return low, _number(field, text, last)
    return low, field.high if has_step else low


def _number(field: _Field, item: str, text: str) -> int:
    if text.upper() in field.names:
        return field.low + field.names.index(text.upper())
    if not (text.isascii() and text.isdecimal() and field.low <= int(text) <= field.high):
        raise _not_valid(field, item)
    return int(text)


def _day(text: str) -> str:
    """The days of the month: `L`, the last one, is known to Dagster, too."""
    if text in _ANY:
        return "*"
    for item in text.upper().split(","):
        if "W" in item:
            raise CronError(
                f"the field {_DAY.name} is `{text}`, but Dagster's schedules know no nearest weekday (`W`). Name "
                "the days, as in `1` or `MON`"
            )
        if item.startswith("L-"):
            raise CronError(
                f"the field {_DAY.name} is `{text}`, but Dagster's schedules can't count back from the end of the "
                "month. Name the day, or write `L` for the last one"
            )
    return ",".join("L" if item.upper() == "L" else _item(_DAY, item) for item in text.split(","))


def _weekday(text: str) -> str:
    """The days of the week, from 1 (Sunday) to 7, as cron has them, from 0 to 6."""
    return "*" if text in _ANY else ",".join(chain.from_iterable(map(_weekday_item, text.split(","))))


def _weekday_item(text: str) -> list[str]:
    if text.upper() == "L":  # the last day of the week
        return [str(_WEEKDAY.high - 1)]
    if text.upper().endswith("L"):
        raise CronError(
            f"the field {_WEEKDAY.name} is `{text}`, but Dagster does not take the last of a weekday in a month like "
            "this. Write the five fields of cron, which have `L5` for the last Friday: `0 10 * * L5`"
        )
    day, mark, count = text.partition("#")
    if mark:
        if count not in ("1", "2", "3", "4", "5"):
            raise _not_valid(_WEEKDAY, text)
        return [f"{_number(_WEEKDAY, text, day) - 1}#{count}"]
    if not any(character.isdigit() for character in text.partition("/")[0]) and "/" not in text:
        first, dash, last = text.partition("-")
        low, high = _bounds(_WEEKDAY, text, first, last if dash else None, has_step=False)
        if low <= high:
            return [text.upper()]
    span, slash, step = text.partition("/")
    first, dash, last = span.partition("-")
    if slash and not (step.isdecimal() and 1 <= int(step) <= 7):
        raise _not_valid(_WEEKDAY, text)
    low, high = _bounds(_WEEKDAY, text, first, last if dash else None, has_step=bool(slash))
    if low <= high and not slash:
        return [str(low - 1) if low == high else f"{low - 1}-{high - 1}"]
    days = range(low, high + 1) if low <= high else [*range(low, 8), *range(1, high + 1)]
    return [str(day - 1) for day in sorted(list(days)[:: int(step or 1)])]


def _not_valid(field: _Field, item: str) -> CronError:
    names = f", or {field.names[0]} to {field.names[-1]}" if field.names else ""
    return CronError(
        f"the field {field.name} has `{item}`. It holds numbers from {field.low} to {field.high}{names}; lists "
        "(`1,3`), ranges (`1-3`) and steps (`1/2`) of them; or `*`"
    )
