"""The translation of cron expressions, and the times at which Dagster fires what comes of it."""

from __future__ import annotations

import itertools
from datetime import datetime, timezone

import dagster as dg
import pytest
from dagster._utils.schedules import cron_string_iterator

from metaflow_pipes.compile.automation.cron import CronError, in_words, translate

# 2026-01-01 is a Thursday; February has 28 days.
BEGINNING = datetime(2026, 1, 1, tzinfo=timezone.utc)


def fire_times(cron: str, count: int) -> list[str]:
    """The first times from the beginning of 2026 on when Dagster fires a cron expression."""
    times = cron_string_iterator(BEGINNING.timestamp(), cron, "UTC")
    return [time.strftime("%m-%d %H:%M") for time in itertools.islice(times, count)]


@pytest.mark.parametrize(
    ("expression", "cron"),
    [
        # those of @schedule(hourly=True), daily and weekly
        ("0 * * * ? *", "0 * * * *"),
        ("0 0 * * ? *", "0 0 * * *"),
        ("0 0 ? * SUN *", "0 0 * * SUN"),
        # AWS
        ("0/15 8-17 ? * MON-FRI *", "*/15 8-17 * * MON-FRI"),
        ("  0  10 *   * ? * ", "0 10 * * *"),
        ("5/20 * * * ? *", "5-59/20 * * * *"),
        ("10-40/10 * * * ? *", "10-40/10 * * * *"),
        ("0,30 */6 * * ? *", "0,30 */6 * * *"),
        ("0 22-2 * * ? *", "0 0,1,2,22,23 * * *"),
        ("0 10 L * ? *", "0 10 L * *"),
        ("0 10 1,L * ? *", "0 10 1,L * *"),
        ("0 8 1/5 jan-mar ? *", "0 8 */5 JAN-MAR *"),
        ("0 8 1 NOV-FEB ? *", "0 8 1 1,2,11,12 *"),
        ("0 10 * * * *", "0 10 * * *"),
        # weekdays from 1, Sunday
        ("0 10 ? * 1 *", "0 10 * * 0"),
        ("0 10 ? * 7 *", "0 10 * * 6"),
        ("0 10 ? * 2-6 *", "0 10 * * 1-5"),
        ("0 10 ? * 1,7 *", "0 10 * * 0,6"),
        ("0 10 ? * 2/2 *", "0 10 * * 1,3,5"),
        ("0 10 ? * */3 *", "0 10 * * 0,3,6"),
        ("0 10 ? * 7-2 *", "0 10 * * 0,1,6"),
        ("0 10 ? * FRI-MON *", "0 10 * * 0,1,5,6"),
        ("0 10 ? * 6#2 *", "0 10 * * 5#2"),
        ("0 10 ? * FRI#2 *", "0 10 * * 5#2"),
        ("0 10 ? * L *", "0 10 * * 6"),
        # Quartz, with a year and without
        ("0 0 10 * * ? *", "0 10 * * *"),
        ("0 0 10 ? * 2-6 *", "0 10 * * 1-5"),
        ("0 0 10 * * ?", "0 10 * * *"),
        ("0 0/5 14 ? * MON-FRI", "*/5 14 * * MON-FRI"),
        ("0 0 12 * * MON-FRI", "0 12 * * MON-FRI"),
        # cron itself keeps its numbers
        ("0 10 * * 1-5", "0 10 * * 1-5"),
        ("0 10 ? * 0", "0 10 * * 0"),
        ("0 10 13 * 5", "0 10 13 * 5"),
        ("0 10 * * L5", "0 10 * * L5"),
        ("@daily", "@daily"),
        ("@Hourly", "@hourly"),
    ],
)
def test_expression_becomes_cron_that_dagster_takes(expression: str, cron: str) -> None:
    assert translate(expression).text == cron
    dg.ScheduleDefinition("schedule", cron_schedule=cron, job_name="job")


@pytest.mark.parametrize(
    ("expression", "times"),
    [
        ("0 10 ? * 2-6 *", ["01-01 10:00", "01-02 10:00", "01-05 10:00"]),
        ("15 10 ? * 6 *", ["01-02 10:15", "01-09 10:15"]),
        ("0 0 ? * SUN *", ["01-04 00:00", "01-11 00:00"]),
        ("0 18 ? * MON#1 *", ["01-05 18:00", "02-02 18:00", "03-02 18:00"]),
        ("0 18 ? * 6#2 *", ["01-09 18:00", "02-13 18:00"]),
        ("0 10 ? * 7-2 *", ["01-03 10:00", "01-04 10:00", "01-05 10:00", "01-10 10:00"]),
        ("0 8 1 * ? *", ["01-01 08:00", "02-01 08:00"]),
        ("0 23 L * ? *", ["01-31 23:00", "02-28 23:00", "03-31 23:00"]),
        ("0/10 22-0 ? * MON *", ["01-05 00:00", "01-05 00:10"]),
        ("0/20 8 * * ? *", ["01-01 08:00", "01-01 08:20", "01-01 08:40", "01-02 08:00"]),
        ("7/25 * * * ? *", ["01-01 00:07", "01-01 00:32", "01-01 00:57", "01-01 01:07"]),
        ("0 0 1/15 * ? *", ["01-01 00:00", "01-16 00:00", "01-31 00:00", "02-01 00:00", "02-16 00:00"]),
        ("0 12 15 DEC-JAN ? *", ["01-15 12:00", "12-15 12:00"]),
        ("0 12 1 3/4 ? *", ["03-01 12:00", "07-01 12:00", "11-01 12:00"]),
        ("0 30 9 ? * 3,5", ["01-01 09:30", "01-06 09:30", "01-08 09:30"]),
        ("0 0 6 ? * L *", ["01-03 06:00", "01-10 06:00"]),
    ],
)
def test_dagster_fires_when_aws_would(expression: str, times: list[str]) -> None:
    assert fire_times(translate(expression).text, len(times)) == times


@pytest.mark.parametrize(
    ("expression", "field", "problem"),
    [
        ("0 10 15W * ? *", "day of month", "`15W`"),
        ("0 10 LW * ? *", "day of month", "`LW`"),
        ("0 10 L-3 * ? *", "day of month", "`L-3`"),
        ("0 10 32 * ? *", "day of month", "`32`"),
        ("0 10 ? * 6L *", "day of week", "`6L`"),
        ("0 10 ? * FRIL *", "day of week", "`FRIL`"),
        ("0 10 ? * 0 *", "day of week", "`0`"),
        ("0 10 ? * 8 *", "day of week", "`8`"),
        ("0 10 ? * 6#6 *", "day of week", "`6#6`"),
        ("0 10 ? * MOO *", "day of week", "`MOO`"),
        ("0 10 * * ? 2026", "year", "`2026`"),
        ("0 10 * * ? 2026-2030", "year", "`2026-2030`"),
        ("0 0 10 * * ? 2026", "year", "`2026`"),
        ("30 0 10 * * ? *", "second", "`30`"),
        ("0/10 * * * * ?", "second", "`0/10`"),
        ("60 10 * * ? *", "minute", "`60`"),
        ("0/90 * * * ? *", "minute", "`0/90`"),
        ("*/0 * * * ? *", "minute", "`*/0`"),
        ("1,,2 * * * ? *", "minute", "``"),
        ("0 24 * * ? *", "hour", "`24`"),
        ("0 10 1 13 ? *", "month", "`13`"),
        ("0 10 1 * 2 *", "day of month", "`1`"),
        ("0 10 ? ? MON *", "no day", "`?`"),
        ("rate(5 minutes)", "2 fields", "`0 10 * * ? *`"),
        ("", "0 fields", "`0 10 * * ? *`"),
    ],
)
def test_expression_that_dagster_can_not_hold_is_refused_by_its_field(
    expression: str, field: str, problem: str
) -> None:
    with pytest.raises(CronError) as refused:
        translate(expression)
    assert field in str(refused.value)
    assert problem in str(refused.value)


@pytest.mark.parametrize(
    ("expression", "is_translated"),
    [
        ("0 10 ? * 2-6 *", True),
        ("0 10 ? * 6#2 *", True),
        ("0 0 10 ? * 1", True),
        ("0 10 ? * MON-FRI *", False),
        ("0 10 ? * MON#2 *", False),
        ("0 10 * * ? *", False),
        ("0 10 * * 2-6", False),
    ],
)
def test_only_numbers_of_weekdays_count_as_translated(expression: str, is_translated: bool) -> None:
    assert translate(expression).has_translated_weekdays is is_translated


def test_expression_that_could_have_seconds_is_read_as_that_of_aws_and_marked() -> None:
    # at 12:00 each day, if the first field were seconds
    cron = translate("0 0 12 * * *")
    assert (cron.text, cron.dialect, cron.is_ambiguous) == ("0 0 12 * *", "AWS", True)
    assert not translate("0 10 * * * *").is_ambiguous
    assert not translate("0 0 12 * * ?").is_ambiguous


@pytest.mark.parametrize(
    ("cron", "words"),
    [
        ("* * * * *", "every minute"),
        ("*/15 * * * *", "every 15 minutes"),
        ("0 * * * *", "every hour"),
        ("5 * * * *", "every hour at minute 5"),
        ("0 0 * * *", "every day at 00:00"),
        ("@daily", "every day at 00:00"),
        ("30 9 * * MON-FRI", "from Monday to Friday at 09:30"),
        ("0 0 * * 0", "every Sunday at 00:00"),
        ("0 10 * * 1,3", "every Monday, Wednesday at 10:00"),
        ("0 10 1 * *", "on day 1 of each month at 10:00"),
        ("*/7 * * * *", None),
        ("*/15 8-17 * * MON-FRI", None),
        ("0 10 1 2 *", None),
        ("0 10 13 * 5", None),
        ("0 10 * * 5#2", None),
        ("@yearly", None),
    ],
)
def test_simple_expression_is_put_in_words(cron: str, words: str | None) -> None:
    assert in_words(cron) == words
