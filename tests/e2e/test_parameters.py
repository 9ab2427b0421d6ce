"""Parameters are typed fields of the start op's run config, and reach Metaflow as they are."""

from __future__ import annotations

import json

import dagster as dg
import pytest
from support import Project, execute, failure_description, failures, job_of, values_of

GIVEN = {
    "text": "--with=dashes\n'quotes' \"too\" {{ x }} $(y) é世",
    "integer": -7,
    "fraction": 2,
    "flag": False,
    "off": True,
    "structure": [1, {"x": None}, "y"],
    "structure-text": "just a string",
    "listed": ["x", "y z"],
    "repeated": [5, 6, 7],
    "deployed": "given",
    "deployed-json": None,
    "learning-rate": 1e-9,
    "lambda": 5,
    "included": "other.txt",
    "included-binary": "other.txt",
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    flows = Project.of(tmp_path_factory.mktemp("parameters") / "project", "parameters.py", "required.py")
    flows.write("data.txt", "the data\n")
    flows.write("other.txt", "other data\n")
    return (
        flows,
        job_of(flows.compile("parameters.py")),
        job_of(flows.compile("required.py", to="required_defs.py")),
    )


def test_defaults_give_the_artifacts_of_metaflows_own_run(compiled):
    flows, job, _ = compiled
    result = execute(job)
    assert result.success
    assert values_of(flows.run_of(result)) == values_of(flows.native_run("parameters.py"))


def test_given_values_give_the_artifacts_of_metaflows_own_run(compiled):
    flows, job, _ = compiled
    result = execute(job, GIVEN)
    assert result.success
    arguments = []
    for name, value in GIVEN.items():
        if name == "repeated":
            arguments += [f"--repeated={item}" for item in value]
        elif name == "listed":
            arguments.append(f"--listed={','.join(value)}")
        elif name.startswith("structure") or name == "deployed-json":
            arguments.append(f"--{name}={json.dumps(value)}")
        else:
            arguments.append(f"--{name}={value}")
    values = values_of(flows.run_of(result))
    assert values == values_of(flows.native_run("parameters.py", *arguments))
    assert values["end"]["text"] == GIVEN["text"]
    assert values["end"]["structure"] == GIVEN["structure"]
    assert values["end"]["included"] == "other data\n"


def test_separated_parameter_takes_the_string_too(compiled):
    flows, job, _ = compiled
    result = execute(job, {"listed": "p,q"})
    assert flows.run_of(result).data.listed == ["p", "q"]


def test_item_with_the_separator_is_refused(compiled):
    _, job, _ = compiled
    (failed,) = failures(execute(job, {"listed": ["p,q", "r"]}), "start")
    assert "listed" in failure_description(failed)
    assert "'p,q'" in failure_description(failed)


def test_launchpad_form_shows_type_default_and_help(compiled):
    _, job, _ = compiled
    fields = job.nodes_in_topological_order[0].definition.config_schema.config_type.fields
    assert fields["integer"].default_value == 3
    assert fields["integer"].config_type.given_name == "Int"
    assert fields["fraction"].config_type.given_name == "Float"
    assert fields["flag"].config_type.given_name == "Bool"
    assert fields["text"].description == "Any text."
    assert fields["learning-rate"].description == "With a dash."
    assert fields["deployed"].default_value == "ParametersFlow by tester"
    assert not any(field.is_required for field in fields.values())


def test_wrong_type_is_dagsters_config_error(compiled):
    _, job, _ = compiled
    with pytest.raises(dg.DagsterInvalidConfigError, match="integer"):
        execute(job, {"integer": "three"})


def test_missing_value_is_an_error_before_anything_runs(compiled):
    _, _, job = compiled
    with pytest.raises(dg.DagsterInvalidConfigError, match="number") as caught:
        execute(job, {"needed": "x"})
    assert "structure" in str(caught.value)


def test_null_is_no_value_unless_the_parameter_is_required(compiled):
    flows, _, job = compiled
    nothing = {"number": None, "needed": "x", "structure": None, "names": None, "file": None}
    result = execute(job, nothing)
    assert flows.run_of(result)["start"].task.data.seen == [None, "x", None, None, None]
    with pytest.raises(dg.DagsterInvalidConfigError, match="needed"):
        execute(job, {**nothing, "needed": None})


def test_metaflows_own_validation_is_the_steps_failure(compiled):
    _, job, _ = compiled
    (failed,) = failures(execute(job, {"included": "no such file.txt"}), "start")
    assert "no such file.txt" in failure_description(failed)


def test_default_that_does_not_fit_its_type_is_a_compile_error(project):
    flows: Project = project("one_step.py")
    source = (flows.folder / "one_step.py").read_text()
    flows.write("one_step.py", source.replace('default="hello"', 'default="hello", type=int'))
    assert "Parameter text of flow OneStepFlow" in flows.refuses("one_step.py", "create")


def test_configs_keep_their_types(project):
    flows: Project = project("typed_configs.py")
    shown = flows.metaflow("typed_configs.py", "dagster", "create", "defs.py").stdout
    assert "Config size of flow TypedConfigsFlow holds Size" in " ".join(shown.split())
    assert "Config shape" not in shown
    result = execute(job_of(flows.folder / "defs.py"))
    assert result.success
    native = flows.native_run("typed_configs.py")
    assert flows.run_of(result).data.later == native.data.later
    assert native.data.later[:3] == (
        (1, (2, "x"), [float("inf"), None, True]),
        {1: "one", 2: ("two",), "three": {}},
        ("x", "y"),
    )


def test_parameter_under_an_op_that_runs_no_task_is_refused(project):
    job = project("nested.py").job("nested.py")
    helpers = [node.name for node in job.nodes if node.name.startswith(("gather_", "fan_out_", "regroup_", "route_"))]
    assert {name.partition("_")[0] for name in helpers} == {"gather", "fan", "regroup", "route"}
    for helper in helpers:
        with pytest.raises(dg.DagsterInvalidConfigError, match='unexpected config entry "alpha"'):
            dg.validate_run_config(job, {"ops": {helper: {"config": {"alpha": 1}}}})


def test_parameter_under_the_wrong_op_is_refused(project):
    flows: Project = project("split.py", "parameters.py")
    flows.write("data.txt", "x")
    for flow in ("split.py", "parameters.py"):
        job = flows.job(flow)
        last = job.nodes_in_topological_order[-1].name
        dg.validate_run_config(job, {"ops": {last: {"config": {}}}})
        with pytest.raises(dg.DagsterInvalidConfigError, match='unexpected config entry "alpha"'):
            dg.validate_run_config(job, {"ops": {last: {"config": {"alpha": 1}}}})
