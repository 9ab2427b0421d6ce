"""The attributes of an entry, and what they ask of the compiler."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from typing import get_type_hints

import click
import dagster as dg
import pytest
import yaml
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext, DefinitionsLoadType
from dagster.components.resolved.errors import ResolutionException
from models import flow_model, step_model

from metaflow_pipes import CompileError, DeploymentError, MetaflowFlowComponent
from metaflow_pipes.compile.flow_model import EventModel, ParameterModel, ScheduleModel, TriggerModel
from metaflow_pipes.compile.job_options import FromRunEnvironment, JobOptions
from metaflow_pipes.compile.keywords import command_line_options
from metaflow_pipes.compile.lowering import lower
from metaflow_pipes.component.attributes import FlowAttributes
from metaflow_pipes.component.parts import MetaflowOptions, RetrySpec, decospecs_of
from metaflow_pipes.component.python import FlowOptions
from metaflow_pipes.component.scaffolder import FlowScaffoldParams
from metaflow_pipes.component.state import STATE_FORMAT, find_flow_files, read_state
from metaflow_pipes.component.translator import Selection


def _entry(text: str) -> MetaflowFlowComponent:
    return MetaflowFlowComponent.resolve_from_yaml(f"flow_file: flow.py\n{text}")


def test_every_attribute_is_documented_and_has_a_schema():
    model = MetaflowFlowComponent.get_model_cls()
    assert model is not None
    schema = model.model_json_schema()
    undocumented = [name for name, value in schema["properties"].items() if not value.get("description")]
    assert not undocumented
    ours = ("MetaflowOptionsModel", "ScheduleSpecModel", "EventSpecModel", "RetrySpecModel")
    assert all(value.get("description") for part in ours for value in schema["$defs"][part]["properties"].values())


def test_python_takes_the_attributes_of_an_entry():
    files = {"flow_file", "flow_files"}
    assert {field.name for field in dataclasses.fields(FlowAttributes)} - files == set(FlowOptions.__annotations__)


def test_dagster_lists_the_component_with_its_documentation():
    import metaflow_pipes

    assert "MetaflowFlowComponent" in dir(metaflow_pipes)
    spec = MetaflowFlowComponent.get_spec()
    assert spec.description is not None
    assert "--flow-file flows/train_flow.py" in spec.description
    example = yaml.safe_load(spec.description.split("```")[1].removeprefix("yaml"))
    assert example["type"] == "metaflow_pipes.MetaflowFlowComponent"
    attributes = {name: value for name, value in example["attributes"].items() if name != "flow_file"}
    assert _entry(yaml.safe_dump(attributes)).options().step_env == {"API_KEY": FromRunEnvironment("API_KEY")}


@pytest.mark.parametrize(
    ("text", "option", "value"),
    [
        ("", "schedule", True),
        ("schedule: auto", "schedule", True),
        ("schedule: false", "schedule", False),
        ("schedule: '0 6 * * *'", "schedule", ScheduleModel("0 6 * * *")),
        (
            "schedule: {cron: '0 6 * * *', timezone: Europe/Berlin}",
            "schedule",
            ScheduleModel("0 6 * * *", "Europe/Berlin"),
        ),
        ("", "triggers", True),
        ("triggers: false", "triggers", False),
        ("triggers: [ready, 'asset:raw/events']", "triggers", [EventModel("ready"), EventModel("asset:raw/events")]),
        (
            "triggers: [{name: ready, parameters: {rows: count}}]",
            "triggers",
            [EventModel("ready", {"rows": "count"})],
        ),
        ("step_env: {A: b, N: 3}", "step_env", {"A": "b", "N": "3"}),
        ("step_env: {K: '{{ env.API_KEY }}'}", "step_env", {"K": FromRunEnvironment("API_KEY")}),
        ("step_env: {K: \"{{ env('API_KEY') }}\"}", "step_env", {"K": FromRunEnvironment("API_KEY")}),
        ("translator: shop.dagster.ShopTranslator", "translator", "shop.dagster:ShopTranslator"),
        ("translator: 'shop.dagster:ShopTranslator'", "translator", "shop.dagster:ShopTranslator"),
        ("partitions: {date: 'daily:2026-01-01'}", "partition_by", {"date": "daily:2026-01-01"}),
        ("parameters: {alpha: 0.5, names: [a, b]}", "parameter_defaults", {"alpha": 0.5, "names": ["a", "b"]}),
        ("schedule_parameters: {day: '{scheduled_time:%Y}'}", "schedule_parameters", {"day": "{scheduled_time:%Y}"}),
        ("pools: {train: gpu}", "pools", {"train": "gpu"}),
        ("warm: flow", "warm", "flow"),
    ],
)
def test_attributes_are_options_of_the_compiler(text, option, value, monkeypatch):
    monkeypatch.setenv("API_KEY", "not to be looked up")
    assert getattr(_entry(text).options(), option) == value


def test_metaflows_options_come_before_its_command():
    options = _entry("top_level: {datastore: s3, production: true, with: [card], config_value: {c: {a: 1}}}").top_level
    assert command_line_options(options.keywords()) == [
        *("--datastore=s3", "--production", "--config-value", "c", '{"a": 1}', "--with=card")
    ]
    assert command_line_options(MetaflowOptions().keywords()) == []


@pytest.mark.parametrize(
    ("retries", "decospecs"),
    [
        (None, ()),
        (2, ("retry:times=2,minutes_between_retries=0",)),
        (RetrySpec(1, delay=30), ("retry:times=1,minutes_between_retries=0.5",)),
    ],
)
def test_retries_are_a_decorator_for_steps_that_have_none(retries, decospecs):
    assert decospecs_of(retries) == decospecs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step_env: {URL: 'https://{{ env.HOST }}/'}", "has to be the whole value: '{{ env.NAME }}'"),
        ("step_env: {URL: '{{ nothing }}'}", "'nothing' not found in scope"),
    ],
)
def test_step_env_refuses_what_it_would_have_to_write(text, message):
    with pytest.raises(ResolutionException, match=message):
        _entry(text)


def test_triggers_of_another_word_are_refused():
    with pytest.raises(CompileError, match=r"Use auto, false, or a list of events, such as \[ready\]"):
        _entry("triggers: ready").options()


def _lowered(**options):
    flow = replace(
        flow_model(step_model("start"), step_model("end", "start")),
        parameters=(
            ParameterModel("rows", "int", has_default=True, default=1),
            ParameterModel("learning-rate", "float"),
        ),
        schedule=ScheduleModel("0 1 * * *"),
        triggers=(TriggerModel("trigger", (EventModel("own"),)), TriggerModel("trigger_on_finish", (EventModel("x"),))),
    )
    return lower(flow, JobOptions(**options))


def test_a_deployment_has_its_own_defaults_schedule_and_triggers():
    job = _lowered(
        parameter_defaults={"rows": "5", "learning_rate": 1},
        schedule=ScheduleModel("0 6 * * *", "Europe/Berlin"),
        triggers=[EventModel("ready")],
    )
    assert [(p.name, p.default) for p in job.flow.parameters] == [("rows", 5), ("learning-rate", 1.0)]
    assert job.schedules[0].arguments["cron"] == "0 6 * * *"
    (sensor,) = job.sensors
    assert sensor.arguments["events"] == [
        {"name": "ready", "parameters": {"rows": "rows", "learning-rate": "learning-rate"}}
    ]
    assert not _lowered(schedule=False, triggers=False).automation
    assert len(_lowered().automation) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parameter_defaults": {"rows": "many"}}, "the default is 'many', which is no value of parameter rows"),
        ({"parameter_defaults": {"row": 1}}, "parameters names the parameter row, which flow .* does not have"),
        ({"triggers": []}, "triggers of flow .* names nothing that starts the flow"),
        ({"triggers": [EventModel("a"), EventModel("a")]}, "each of them once"),
        ({"triggers": [EventModel("")]}, "'' is no name of an event"),
        ({"triggers": [EventModel("a", {"row": "x"})]}, "triggers names the parameter row"),
    ],
)
def test_a_deployment_says_what_is_wrong_with_its_own(options, message):
    with pytest.raises(CompileError, match=message):
        _lowered(**options)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "does not exist: there is no .*flow.py. Give the path of a Python file with a Metaflow flow"),
        ("def (", "is no Python file that can be read"),
        ("x = 1\n", "defines no flow. A flow file has a subclass of metaflow.FlowSpec"),
    ],
)
def test_scaffolding_refuses_what_is_no_flow_file(source, message, tmp_path):
    file = tmp_path / "flow.py"
    if source is not None:
        file.write_text(source)
    with pytest.raises(click.ClickException, match=message):
        FlowScaffoldParams(flow_file=str(file))
    with pytest.raises(click.ClickException, match=r"The entry needs a flow file: .*--flow-file flows/train_flow.py"):
        FlowScaffoldParams()
    with pytest.raises(click.ClickException, match="is a folder"):
        FlowScaffoldParams(flow_file=str(tmp_path))


def test_flow_files_are_paths_and_globs(tmp_path):
    for name in ("a_flow.py", "b_flow.py", "other.py"):
        (tmp_path / name).touch()
    found = find_flow_files(["other.py", str(tmp_path / "*_flow.py"), "./a_flow.py"], tmp_path)
    assert [file.name for file in found] == ["other.py", "a_flow.py", "b_flow.py"]
    with pytest.raises(CompileError, match=r"There is no flow file .*/none.py"):
        find_flow_files(["none.py"], tmp_path)
    with pytest.raises(CompileError, match="No flow file matches"):
        find_flow_files(["*_none.py"], tmp_path)


@pytest.mark.parametrize("state", ["", "[]", '"text"', json.dumps({"format": STATE_FORMAT + 1, "flows": {}})])
def test_a_state_of_another_version_is_refused(state):
    with pytest.raises(DeploymentError, match="another version of metaflow-pipes"):
        read_state(state)


def test_steps_are_selected_by_patterns():
    assert Selection().has("start")
    assert Selection(select=("train*",)).has("train_all")
    assert not Selection(select=("train*",), exclude=("*_all",)).has("train_all")
    assert not Selection(exclude=("start",)).has("start")


def test_what_is_taken_of_dagsters_private_modules():
    assert {"RECONSTRUCTION", "INITIALIZATION"} == set(DefinitionsLoadType.__members__)
    assert get_type_hints(DefinitionsLoadContext.get)["return"] is DefinitionsLoadContext
    assert callable(dg.Definitions().with_reconstruction_metadata)
