"""Environment variables: `@environment`, `step_env`, their rank, and where they end."""

from __future__ import annotations

import os

import dagster as dg
import pytest
from support import Project, execute, failure_description, failures, job_of, load, path_with_python

from metaflow_pipes import CompileError, DagsterCompiler

# What each runner sets for itself, or what differs between any two processes.
OF_THE_RUNNER = {
    "DAGSTER_PIPES_CONTEXT",
    "DAGSTER_PIPES_MESSAGES",
    "METAFLOW_RUN_ID",
    "METAFLOW_RUNTIME_NAME",
    "METAFLOW_DATASTORE_SYSROOT_LOCAL",
    "METAFLOW_DATATOOLS_LOCALROOT",
    "METAFLOW_PRODUCTION_TOKEN",
    "PYTEST_CURRENT_TEST",
    "PWD",
    "OLDPWD",
    "_",
    "LC_CTYPE",
}


def _seen(run, step):
    return {name: value for name, value in run[step].task.data.seen.items() if name not in OF_THE_RUNNER}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same flow by Dagster and by Metaflow, with variables from everywhere."""
    before_path = os.environ["PATH"]
    os.environ["PATH"] = path_with_python()
    flows = Project.of(tmp_path_factory.mktemp("environments") / "project", "environments.py")
    os.environ["FROM_RUN"] = os.environ["FROM_STEP_ENV"] = os.environ["ONLY_RUN"] = "from the run"
    before = dict(os.environ)
    try:
        step_env = ("--step-env", "FROM_STEP_ENV=from step_env", "--step-env", "ONLY_STEP_ENV=a=b")
        result = flows.run("environments.py", None, *step_env)
        assert result.success
        assert dict(os.environ) == before, "the Dagster process's environment must not change"
        native = flows.native_run("environments.py", PATH=os.environ["PATH"])
    finally:
        os.environ["PATH"] = before_path
        for name in ("FROM_RUN", "FROM_STEP_ENV", "ONLY_RUN"):
            del os.environ[name]
    return flows.run_of(result), native, flows


@pytest.mark.parametrize("step", ["start", "computed", "mutated", "end"])
def test_step_sees_the_environment_of_metaflows_own_run_plus_step_env(runs, step):
    run, native, _ = runs
    expected = _seen(native, step) | {"ONLY_STEP_ENV": "a=b"}
    if step != "start":
        expected["FROM_STEP_ENV"] = "from step_env"
    assert _seen(run, step) == expected


def test_step_environment_ranks_over_step_env_over_the_runs(runs):
    run, _, _ = runs
    start, end = _seen(run, "start"), _seen(run, "end")
    assert (start["FROM_RUN"], end["FROM_RUN"]) == ("from the step", "from the run")
    assert (start["FROM_STEP_ENV"], end["FROM_STEP_ENV"]) == ("from the step", "from step_env")
    assert start["ONLY_STEP_ENV"] == end["ONLY_STEP_ENV"] == "a=b"
    assert start["ONLY_RUN"] == end["ONLY_RUN"] == "from the run"


def test_step_environment_ranks_over_the_name_of_the_runtime(runs):
    run, native, _ = runs
    assert {step: run[step].task.data.seen["METAFLOW_RUNTIME_NAME"] for step in ("start", "end")} == {
        "start": "of the step",
        "end": "dagster",
    }
    assert "runtime:of the step" in run["start"].task.system_tags
    assert native["start"].task.data.seen["METAFLOW_RUNTIME_NAME"] == "of the step"


def test_variables_are_in_place_before_the_interpreter_starts(runs):
    run, native, _ = runs
    start = run["start"].task.data
    assert start.optimize == 1
    assert start.hash == native["start"].task.data.hash
    assert start.contact == {"a": "b"}


def test_computed_and_mutated_variables_are_literals_in_the_file(runs):
    _, _, flows = runs
    text = (flows.folder / "defs.py").read_text()
    assert 'extra_env={"REGION": "north", "THREADS": "6"}' in text
    assert 'extra_env={"FROM_FLOW_MUTATOR": "yes"}' in text
    assert 'extra_env={"FROM_STEP_MUTATOR": "yes"}' in text
    assert 'METAFLOW_STEP_ENV = {"FROM_STEP_ENV": "from step_env", "ONLY_STEP_ENV": "a=b"}' in text


def _flow_with(variables: str) -> str:
    return (
        "import datetime, os\nfrom metaflow import FlowSpec, environment, step\n\n"
        "class VariablesFlow(FlowSpec):\n"
        f"    @environment(vars={variables})\n    @step\n    def start(self):\n"
        "        self.seen = os.environ.get('API_KEY')\n        self.next(self.end)\n"
        "    @step\n    def end(self):\n        pass\n\n"
        "if __name__ == '__main__':\n    VariablesFlow()\n"
    )


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ("{'LIST': [1, 2]}", "json.dumps"),
        ("{'MAPPING': {'a': 1}}", "json.dumps"),
        ("{'DAY': datetime.date(2026, 1, 1)}", "json.dumps"),
        ("{'A=B': 'x'}", "'A=B'"),
        ("{'': 'x'}", "non-empty"),
        ("{'NUL': 'a\\0b'}", "NUL"),
        ("['A']", "vars="),
    ],
)
def test_variable_that_no_environment_can_hold_is_a_compile_error(project, variables, message):
    flows: Project = project()
    flows.write("flow.py", _flow_with(variables))
    shown = flows.refuses("flow.py", "create", "defs.py")
    assert message in shown
    assert "start" in shown
    assert "VariablesFlow" in shown
    assert not (flows.folder / "defs.py").exists()


def test_credential_in_environment_decorator_gives_a_warning_that_says_where(project):
    flows: Project = project()
    flows.write("flow.py", _flow_with("{'API_KEY': 'abc', 'TOKENIZERS_PARALLELISM': 'false'}"))
    output = flows.metaflow("flow.py", "dagster", "create", "defs.py", "--step-env", "DB_PASSWORD=x").stdout
    assert "API_KEY of step start" in output
    assert "op_start" in output
    assert "--step-env API_KEY" in output
    assert "METAFLOW_STEP_ENV" in output
    assert "TOKENIZERS_PARALLELISM" not in output


def test_value_from_the_runs_environment_stays_out_of_the_file(project, monkeypatch):
    flows: Project = project()
    flows.write("flow.py", _flow_with("{}"))
    monkeypatch.setenv("API_KEY", "s3cret-at-compile-time")
    definitions = flows.compile("flow.py", "--step-env", "API_KEY")
    text = definitions.read_text()
    assert "s3cret" not in text
    assert 'METAFLOW_STEP_ENV = {"API_KEY": dg.EnvVar("API_KEY")}' in text

    monkeypatch.setenv("API_KEY", "at run time")
    result = execute(job_of(definitions))
    assert flows.run_of(result)["start"].task.data.seen == "at run time"

    monkeypatch.delenv("API_KEY")
    result = execute(job_of(definitions))
    (failed,) = failures(result, "start")
    assert "API_KEY" in failure_description(failed)
    assert "not set" in failure_description(failed)


def test_compiler_takes_dagster_env_vars(project, monkeypatch):
    flows: Project = project()
    file = flows.write("flow.py", _flow_with("{}"))
    monkeypatch.chdir(flows.folder)
    compiler = DagsterCompiler(file, step_env={"API_KEY": dg.EnvVar("TEAM_KEY"), "AWS_REGION": "us-west-2"})
    definitions = compiler.write("defs.py")
    assert load(definitions).METAFLOW_STEP_ENV["AWS_REGION"] == "us-west-2"
    assert (
        'METAFLOW_STEP_ENV = {"API_KEY": dg.EnvVar("TEAM_KEY"), "AWS_REGION": "us-west-2"}' in definitions.read_text()
    )
    monkeypatch.setenv("TEAM_KEY", "k")
    assert flows.run_of(execute(job_of(definitions)))["start"].task.data.seen == "k"


def test_compiler_refuses_step_env_of_a_wrong_type(project):
    file = project("one_step.py").folder / "one_step.py"
    with pytest.raises(CompileError, match="DEPTH is a int"):
        DagsterCompiler(file, step_env={"DEPTH": 3})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("item", ["=x", ""])
def test_step_env_without_a_name_is_refused(project, item):
    flows: Project = project("one_step.py")
    assert "--step-env KEY=VALUE" in flows.refuses("one_step.py", "create", "--step-env", item)
