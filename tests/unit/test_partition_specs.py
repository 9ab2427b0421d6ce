"""The specs of `--partition-by`: which partitions they are, and what is refused, and why."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import dagster as dg
import pytest
from models import flow_model, step_model

from metaflow_pipes.compile.flow_model import ParameterModel
from metaflow_pipes.compile.job_options import JobOptions
from metaflow_pipes.compile.options import check_options
from metaflow_pipes.compile.partitions import dagster_definition, partitions_of
from metaflow_pipes.errors import CompileError, PartitionError
from metaflow_pipes.runtime.parameters import MetaflowParameter
from metaflow_pipes.runtime.partitions import MetaflowPartitions, check_partition, partition_of_key

FLOW = replace(
    flow_model(step_model("start")),
    parameters=(
        ParameterModel("date", "str"),
        ParameterModel("first-day", "str"),
        ParameterModel("last", "str"),
        ParameterModel("number", "int"),
        ParameterModel("rate", "float"),
        ParameterModel("flag", "bool"),
        ParameterModel("settings", "json"),
        ParameterModel("table", "file"),
        ParameterModel("sizes", "int", multiple=True),
        ParameterModel("names", "str", separator=","),
    ),
)
NOW = datetime(2026, 3, 3, 12, 30, tzinfo=timezone.utc)


def keys(options: JobOptions) -> list[str]:
    model = partitions_of(FLOW, options)
    assert model is not None
    with dg.partition_loading_context(effective_dt=NOW):
        return list(dagster_definition(model).get_partition_keys())


@pytest.mark.parametrize(
    ("spec", "first", "last"),
    [
        ("hourly:2026-03-03", "2026-03-03-00:00", "2026-03-03-11:00"),
        ("hourly:2026-03-03T05:00", "2026-03-03-05:00", "2026-03-03-11:00"),
        ("hourly:2026-03-03-05:00..2026-03-03-07:00", "2026-03-03-05:00", "2026-03-03-06:00"),
        ("hourly:2026-03-03@Asia/Tokyo", "2026-03-03-00:00", "2026-03-03-20:00"),
        ("daily:2026-01-01", "2026-01-01", "2026-03-02"),
        ("daily:2026-01-01..2026-02-01", "2026-01-01", "2026-01-31"),
        ("daily:2026-01-01@Pacific/Kiritimati", "2026-01-01", "2026-03-03"),
        ("daily:2026-01-01..2026-01-03@Europe/Berlin", "2026-01-01", "2026-01-02"),
        ("weekly:2026-01-01", "2026-01-04", "2026-02-22"),
        ("monthly:2026-01-01", "2026-01-01", "2026-02-01"),
        ("cron:0 6 * * MON:2026-01-01", "2026-01-05-06:00", "2026-02-23-06:00"),
        ("cron:0 6 ? * MON-FRI *:2026-03-01@Europe/Berlin", "2026-03-02-06:00", "2026-03-02-06:00"),
        ("cron:*/15 * * * *:2026-03-03-12:00..2026-04-01", "2026-03-03-12:00", "2026-03-03-12:15"),
        ("cron:@daily:2026-03-01", "2026-03-01-00:00", "2026-03-02-00:00"),
        ("static:a, b,c", "a", "c"),
    ],
)
def test_spec_gives_partitions(spec: str, first: str, last: str) -> None:
    found = keys(JobOptions(partition_by={"date": spec}))
    assert (found[0], found[-1]) == (first, last)


def test_two_specs_are_two_dimensions() -> None:
    by = {"last": "static:eu,us", "date": "daily:2026-01-01..2026-01-02"}
    assert keys(JobOptions(partition_by=by)) == ["2026-01-01|eu", "2026-01-01|us"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"partition_by": {"dat": "daily:2026-01-01"}}, "names the parameter dat, which flow *SomeFlow* does not have"),
        ({"partition_by": {"flag": "static:true"}}, "flag of flow *SomeFlow*, which is of type bool"),
        ({"partition_by": {"settings": "static:1"}}, "which is of type json"),
        ({"partition_by": {"table": "static:1"}}, "which is of type file"),
        ({"partition_by": {"sizes": "static:1"}}, "which is of type a list of int"),
        ({"partition_by": {"names": "static:1"}}, "which is of type a list of str"),
        ({"partition_by": {"date": "daily"}}, "date=daily can't be used: it begins with none of these forms"),
        ({"partition_by": {"date": "yearly:2026-01-01"}}, "static:a,b,c; or dynamic:NAME"),
        ({"partition_by": {"date": "daily:"}}, "it has no start"),
        ({"partition_by": {"date": "daily:2026-13-01"}}, "'2026-13-01' is no date"),
        ({"partition_by": {"date": "daily:2026-01-01T05:00"}}, "'2026-01-01T05:00' is no date"),
        ({"partition_by": {"date": "daily:2026-01-01..soon"}}, "'soon' is no date"),
        ({"partition_by": {"date": "daily:2026-01-02..2026-01-02"}}, "which is not after its start"),
        ({"partition_by": {"date": "daily:2026-01-01@Berlin"}}, "'Berlin' is no time zone"),
        ({"partition_by": {"date": "daily:2026-01-01@"}}, "'' is no time zone"),
        ({"partition_by": {"date": "cron:0 6 * * *"}}, "there is no :START"),
        ({"partition_by": {"date": "cron:0 6 * *:2026-01-01"}}, "cron:0 6 * *:2026-01-01 can't be used"),
        ({"partition_by": {"date": "cron:99 6 * * *:2026-01-01"}}, "cron:99 6 * * *:2026-01-01 can't be used"),
        ({"partition_by": {"date": "static:a,,b"}}, "one of its keys is empty"),
        ({"partition_by": {"date": "static:a,a"}}, "Partition keys must be unique"),
        ({"partition_by": {"date": "static:a...b"}}, "invalid substrings"),
        ({"partition_by": {"date": "static:a|b", "last": "static:c"}}, "Invalid character"),
        ({"partition_by": {"date": f"static:{'x' * 600}"}}, "can't be used"),
        ({"partition_by": {"date": "dynamic:"}}, "the dynamic partitions have no name"),
        ({"partition_by": {"number": "static:1,two"}}, "of type int, and 'two' is no such value"),
        ({"partition_by": {"number": "daily:2026-01-01"}}, "--partition-format, such as %Y%m%d"),
        ({"partition_by": {"date": "static:a", "last": "static:b", "rate": "static:1"}}, "one or two dimensions"),
        ({"partition_by": {"first-day": "static:a", "first_day": "static:b"}}, "the parameter first-day twice"),
        ({"partition_by": {"date": "static:a"}, "partition_format": "%Y"}, "is for keys of time"),
        ({"partition_by": {"date": "daily:2026-01-01"}, "partition_format": "Y"}, "has no part of the time"),
        ({"partition_format": "%Y"}, "--partition-format is given without --partition-by"),
        ({"partition_range": ["date", "last"]}, "--partition-range is given without --partition-by"),
        ({"partition_by": {"date": "daily:2026-01-01"}, "partition_range": ["date"]}, "has to name two parameters"),
        ({"partition_by": {"date": "daily:2026-01-01"}, "partition_range": ["last", "date"]}, "of its first parameter"),
        ({"partition_by": {"date": "daily:2026-01-01"}, "partition_range": ["date", "date"]}, "another parameter"),
        ({"partition_by": {"date": "daily:2026-01-01"}, "partition_range": ["date", "number"]}, "type int"),
        ({"partition_by": "date=daily"}, "has to be a mapping of parameters to specs"),
        ({"partition_by": {"date": 3}}, "has to be a mapping of parameters to specs"),
        ({"partition_by": {"date": "static:a"}, "partition_format": 3}, "has to be of type str"),
    ],
)
def test_unusable_spec_is_refused(options: dict[str, Any], words: str) -> None:
    def compiled() -> None:
        check_options(JobOptions(**options))
        partitions_of(FLOW, JobOptions(**options))

    with pytest.raises(CompileError) as refused:
        compiled()
    assert words in str(refused.value)


DATE, NUMBER = MetaflowParameter("date", "str"), MetaflowParameter("number", "int")
LAST, RATE = MetaflowParameter("last", "str"), MetaflowParameter("rate", "float")
PARAMETERS = (DATE, NUMBER, LAST, RATE)
DAILY = dg.DailyPartitionsDefinition(start_date="2026-01-01")
DYNAMIC = dg.DynamicPartitionsDefinition(name="customers")


@pytest.mark.parametrize(
    ("partitions", "key", "values"),
    [
        (MetaflowPartitions(DAILY, ["date"]), "2026-01-05", {"date": "2026-01-05"}),
        (MetaflowPartitions(DAILY, ["number"], format="%Y%m%d"), "2026-01-05", {"number": 20260105}),
        (MetaflowPartitions(dg.StaticPartitionsDefinition(["0.5"]), ["rate"]), "0.5", {"rate": 0.5}),
        (
            MetaflowPartitions(DAILY, ["date"], range_end="last"),
            "2026-01-05",
            {"date": "2026-01-05", "last": "2026-01-05"},
        ),
        (
            MetaflowPartitions(dg.MultiPartitionsDefinition({"date": DAILY, "number": DYNAMIC}), ["date", "number"]),
            "2026-01-05|7",
            {"date": "2026-01-05", "number": 7},
        ),
        (
            MetaflowPartitions(
                dg.HourlyPartitionsDefinition("2026-01-01-00:00", timezone="Asia/Tokyo"), ["date"], format="%H %z"
            ),
            "2026-01-05-07:00",
            {"date": "07 +0900"},
        ),
    ],
)
def test_key_becomes_the_values_of_parameters(partitions: MetaflowPartitions, key: str, values: dict[str, Any]) -> None:
    assert partitions.values(partition_of_key(partitions.definition, key), PARAMETERS) == values


def test_key_of_another_type_is_refused() -> None:
    partitions = MetaflowPartitions(DYNAMIC, ["number"])
    with pytest.raises(PartitionError, match=r"the partition's key 'seven' is 'seven', which is no value of parameter"):
        partitions.values(partition_of_key(DYNAMIC, "seven"), PARAMETERS)


def test_unknown_partition_is_refused_with_those_that_there_are() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        with pytest.raises(PartitionError, match=r"there is no partition '2025-12-31'\. There are .*: 2026-01-01, "):
            check_partition(DAILY, partition_of_key(DAILY, "2025-12-31"), instance)
        with pytest.raises(PartitionError, match=r"there is no partition 'ann'\. There is none yet"):
            check_partition(DYNAMIC, partition_of_key(DYNAMIC, "ann"), instance)
        instance.add_dynamic_partitions("customers", ["ann"])
        check_partition(DYNAMIC, partition_of_key(DYNAMIC, "ann"), instance)


def test_metaflow_tags_say_the_partition() -> None:
    both = dg.MultiPartitionsDefinition({"date": DAILY, "region": dg.StaticPartitionsDefinition(["eu"])})
    assert partition_of_key(DAILY, "2026-01-05").metaflow_tags == ("partition:2026-01-05",)
    assert partition_of_key(DAILY, "2026-01-05", "2026-01-06").metaflow_tags == ("partition:2026-01-05...2026-01-06",)
    assert partition_of_key(DAILY, "2026-01-05", "2026-01-05").metaflow_tags == ("partition:2026-01-05",)
    assert partition_of_key(both, "2026-01-05|eu").metaflow_tags == (
        "partition:date=2026-01-05",
        "partition:region=eu",
    )
