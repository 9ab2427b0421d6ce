"""Lowering: names, retries, executors and warnings, over plain data."""

from __future__ import annotations

import keyword
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import flow_model, step_model

from metaflow_pipes import CompileError, runtime
from metaflow_pipes.compile.flow_model import ParameterModel, ScheduleModel
from metaflow_pipes.compile.job_model import Reference
from metaflow_pipes.compile.job_options import FromRunEnvironment, JobOptions
from metaflow_pipes.compile.lowering import lower
from metaflow_pipes.compile.naming import RESERVED_NAMES, definition_name, is_free_identifier
from metaflow_pipes.compile.option_text import parse_step_env
from metaflow_pipes.runtime import release_0_1


def _names(*steps: str, flow: str = "SomeFlow") -> dict[str, str]:
    job = lower(flow_model(*(step_model(step) for step in steps), name=flow), JobOptions())
    return {op.step.name: op.name for op in job.ops}


def test_reserved_names_are_those_of_dagster():
    from dagster._core.definitions.utils import DISALLOWED_NAMES

    assert RESERVED_NAMES == DISALLOWED_NAMES


@pytest.mark.parametrize(
    ("steps", "names"),
    [
        (["start", "end"], ["start", "end"]),
        (["config", "type"], ["config_", "type_"]),
        (["type", "type_", "type__"], ["type___", "type_", "type__"]),
        (["SomeFlow", "other"], ["SomeFlow_", "other"]),
        (["étape"], ["_xe9tape"]),
        (["étape", "_xe9tape"], ["_xe9tape_", "_xe9tape"]),
    ],
)
def test_op_takes_the_steps_name_or_an_escaped_one(steps, names):
    assert list(_names(*steps).values()) == names


identifiers = st.one_of(
    st.from_regex(r"[a-z_é][a-z0-9_é]{0,5}", fullmatch=True).filter(lambda name: not keyword.iskeyword(name)),
    st.sampled_from(sorted(RESERVED_NAMES - set(keyword.kwlist))),
)


@given(st.lists(identifiers, unique=True, min_size=1, max_size=8), identifiers)
def test_op_names_are_valid_and_distinct(steps, flow):
    names = _names(*steps, flow=flow)
    assert len(set(names.values())) == len(steps)
    for name in names.values():
        assert name.isascii()
        assert name not in RESERVED_NAMES


def test_join_takes_its_inputs_in_metaflows_order():
    flow = flow_model(
        step_model("start"),
        step_model("b", "start"),
        step_model("a", "start"),
        step_model("join", "a", "b", is_join=True),
    )
    job = lower(flow, JobOptions())
    assert job.ops[-1].takes_list
    assert job.statements[-1].arguments == ((Reference("task_a", "result"), Reference("task_b", "result")),)


@pytest.mark.parametrize(
    ("deployment_name", "job_name"),
    [
        ("SomeFlow", "SomeFlow"),
        ("shop.user.ann-b.SomeFlow", "shop_user_ann_b_SomeFlow"),
        ("shop.prod.SomeFlow", "shop_prod_SomeFlow"),
        ("type", "type_"),
    ],
)
def test_job_name_is_the_deployments(deployment_name, job_name):
    flow = replace(flow_model(step_model("start")), deployment_name=deployment_name)
    assert lower(flow, JobOptions()).name == job_name


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("nightly", "nightly"),
        ("dg", "job_dg"),
        ("FLOW", "job_FLOW"),
        ("op_start", "job_op_start"),
        ("1st", "job_1st"),
    ],
)
def test_job_function_does_not_hide_what_the_file_needs(name, function):
    job = lower(flow_model(step_model("start")), JobOptions(name=name))
    assert (job.name, job.function) == (name, function)


def test_retries_of_code_and_of_errors_add_up():
    step = replace(step_model("start"), user_code_retries=2, error_retries=3)
    assert lower(flow_model(step), JobOptions()).ops[0].max_retries == 5


def test_step_env_items():
    assert parse_step_env(["A=b", "C=d=e", "E=", "F"]) == {
        "A": "b",
        "C": "d=e",
        "E": "",
        "F": FromRunEnvironment("F"),
    }
    for item in ("", "=x", "A\0=b", "A=b\0"):
        with pytest.raises(CompileError):
            lower(flow_model(step_model("start")), JobOptions(step_env=parse_step_env([item])))


def test_limit_of_concurrent_runs_that_limits_nothing_is_warned_of():
    flow = flow_model(step_model("start"))
    (warning,) = lower(flow, JobOptions(max_concurrent_runs=1)).warnings
    assert "--max-concurrent-runs, or --no-overlap, has no effect" in warning
    scheduled = replace(flow, schedule=ScheduleModel("0 8 * * *"))
    assert not lower(scheduled, JobOptions(max_concurrent_runs=1)).warnings
    assert not lower(flow, JobOptions()).warnings


def test_credentials_are_warned_of_wherever_they_would_stand():
    step = replace(step_model("start"), environment={"HF_TOKEN": "x", "TOKENIZERS_PARALLELISM": "false"})
    flow = replace(
        flow_model(step),
        parameters=(
            ParameterModel("password", "str", has_default=True, default="x"),
            ParameterModel("secret", "str"),
        ),
        configs={"settings": [{"db": [{"api_key": "x"}], "url": "postgres://me:pw@host/db", "depth": 3}, False]},
    )
    options = JobOptions(step_env={"API_KEY": "x", "SAFE_KEY_FROM_RUN_TOKEN": FromRunEnvironment("T"), "LANG": "C"})
    warnings = lower(flow, options).warnings
    assert len(warnings) == 5
    for text in (
        "API_KEY",
        "HF_TOKEN of step start",
        "parameter password",
        "settings.db.api_key",
        "settings.url",
    ):
        assert sum(text in warning for warning in warnings) >= 1, text


def test_helper_does_not_take_the_jobs_name():
    flow = flow_model(
        replace(step_model("start"), kind="foreach", out_steps=("outer",)),
        replace(step_model("outer", "start"), kind="foreach", region=("outer",)),
        replace(step_model("inner", "outer"), region=("outer", "inner")),
    )
    assert lower(flow, JobOptions()).helpers[0].name == "fan_out_inner"
    assert lower(flow, JobOptions(name="fan_out_inner")).helpers[0].name == "fan_out_inner_"


def test_step_takes_all_items_of_a_foreach_unless_a_switch_in_that_can_pass_it_by():
    flow = flow_model(
        replace(step_model("start"), kind="foreach", out_steps=("each",)),
        replace(step_model("each", "start"), kind="switch", out_steps=("big", "small"), region=("each",)),
        replace(step_model("big", "each"), kind="foreach", out_steps=("inner",), region=("each",)),
        replace(step_model("inner", "big"), out_steps=("inner_join",), region=("each", "inner")),
        replace(step_model("inner_join", "inner", is_join=True), out_steps=("both",), region=("each",)),
        replace(step_model("small", "each"), out_steps=("both",), region=("each",)),
        replace(step_model("both", "inner_join", "small"), out_steps=("join",), region=("each",)),
        step_model("join", "both", is_join=True),
    )
    found = {op.step.name: op.items_of for op in lower(flow, JobOptions()).ops}
    assert found == {
        "start": None,
        "each": "start",
        "big": None,
        "inner": "big",
        "inner_join": None,
        "small": None,
        "both": "start",
        "join": None,
    }


@given(st.sets(st.tuples(*[st.text("ab_1", min_size=1, max_size=6)] * 2), max_size=60))
def test_definition_names_of_all_jobs_differ(names):
    assert len({definition_name(job, op) for job, op in names}) == len(names)


def test_usual_definition_names_are_those_of_job_and_op():
    usual = [("TrainFlow", "start"), ("shop_user_ann_TrainFlow", "fit_linear"), ("TypesFlow", "type__")]
    assert [definition_name(*names) for names in usual] == [
        "TrainFlow__start",
        "shop_user_ann_TrainFlow__fit_linear",
        "TypesFlow__type__",
    ]
    assert definition_name("A", "b__c") != definition_name("A__b", "c")


def test_job_takes_no_name_that_its_file_imports():
    of_other_files = {"DagsterMetaflowTranslator", "MetaflowFlowWarning", "asset_specs", *vars(release_0_1)}
    assert [name for name in runtime.__all__ if is_free_identifier(name) and name not in of_other_files] == []
