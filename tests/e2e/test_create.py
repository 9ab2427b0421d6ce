"""`python flow.py dagster create`, `DagsterCompiler`, and what they say to bad input."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys

import pytest
from support import Project, execute, job_of, load, path_with_python

from metaflow_pipes import CompileError, DagsterCompiler
from metaflow_pipes.deployment.lookup import find_deployment
from metaflow_pipes.deployment.registry import registered

OLD = "# the old definitions\n"


def test_default_file_is_the_job_name_in_the_current_directory(project):
    flows: Project = project("one_step.py")
    output = flows.metaflow("one_step.py", "dagster", "create").stdout
    assert (flows.folder / "onestepflow_dagster.py").is_file()
    assert "dagster dev -f onestepflow_dagster.py" in output
    assert "dagster job execute -f onestepflow_dagster.py -j OneStepFlow" in output


def test_printed_commands_work_whether_the_environment_is_activated_or_not(project, tmp_path):
    flows: Project = project("one_step.py")
    shown = flows.metaflow("one_step.py", "dagster", "create").stdout
    (command,) = (line.strip() for line in shown.splitlines() if " job execute " in line)
    env = {**os.environ, "DAGSTER_HOME": str(tmp_path)}
    (tmp_path / "dagster.yaml").touch()
    run = subprocess.run(command, shell=True, cwd=flows.folder, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    activated = flows.metaflow("one_step.py", "dagster", "create", PATH=path_with_python()).stdout
    assert "    dagster dev -f onestepflow_dagster.py" in activated
    assert "    dagster job execute -f onestepflow_dagster.py -j OneStepFlow" in activated


def test_quiet_says_nothing(project):
    flows: Project = project("one_step.py")
    assert flows.metaflow("one_step.py", "--quiet", "dagster", "create").stdout == ""


def test_same_flow_gives_same_bytes_from_shell_and_from_python(project, monkeypatch):
    flows: Project = project("parameters.py")
    flows.write("data.txt", "x")
    first = flows.compile("parameters.py", "--step-env", "A=b", "--tag", "t", to="first.py").read_text()
    again = flows.compile("parameters.py", "--step-env", "A=b", "--tag", "t", to="first.py").read_text()
    monkeypatch.chdir(flows.folder)
    compiler = DagsterCompiler("parameters.py", step_env={"A": "b"}, tags=["t"])
    assert first == again == compiler.compile("first.py")
    assert compiler.write("first.py").read_text() == first
    assert compiler.write().name == "parametersflow_dagster.py"


def test_file_loads_without_the_compiler_and_is_plain_dagster(project):
    flows: Project = project("split.py")
    definitions = flows.compile("split.py")
    imported = {
        name.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(definitions.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in node.names
    }
    assert imported == {"dagster", "metaflow_pipes.runtime"}
    module = load(definitions)
    assert module.SplitFlow.name == "SplitFlow"
    assert module.defs.get_job_def("SplitFlow") is module.SplitFlow


def test_name_max_workers_and_executor(project):
    flows: Project = project("one_step.py")
    job = flows.job("one_step.py", "--name", "nightly", "--max-workers", "3")
    assert job.name == "nightly"
    assert job.executor_def.config_schema.config_type.fields["max_concurrent"].default_value == 3
    assert flows.job("one_step.py", "--executor", "in_process").executor_def.name == "in_process"
    custom = flows.job("one_step.py", "--executor", "dagster:multi_or_in_process_executor")
    assert custom.executor_def.name == "multi_or_in_process_executor"


def test_name_stands_before_or_behind_the_command(project):
    flows: Project = project("one_step.py")
    for arguments in (["--name", "n", "create", "defs.py"], ["--name", "n", "create", "defs.py", "--name", "n"]):
        assert "Dagster job n " in flows.metaflow("one_step.py", "dagster", *arguments).stdout
    shown = flows.refuses("one_step.py", "--name", "a", "create", "--name", "b")
    assert "--name is given twice, as a before and as b behind create" in shown


def test_deployment_is_found_by_its_name(project, monkeypatch):
    flows: Project = project("one_step.py")
    definitions = flows.compile("one_step.py", "--name", "nightly")
    assert find_deployment("nightly").definitions_file == definitions
    monkeypatch.chdir(flows.folder)
    written = DagsterCompiler("one_step.py").write()
    assert find_deployment("OneStepFlow").definitions_file == written
    DagsterCompiler("one_step.py", name="text_only").compile()
    assert sorted(deployment.name for deployment in registered()) == ["OneStepFlow", "nightly"]


def test_deployment_goes_on_without_a_place_for_its_entry(project):
    flows: Project = project("one_step.py")
    shown = flows.metaflow("one_step.py", "dagster", "create", "defs.py", METAFLOW_HOME=os.devnull).stdout
    assert "give --definitions-file to later commands" in shown
    assert "Traceback" not in shown
    assert (flows.folder / "defs.py").is_file()


def test_deployer_reads_what_was_deployed_from_a_pipe(project):
    flows: Project = project("one_step.py")
    pipe = flows.folder / "attributes"
    os.mkfifo(pipe)
    command = [sys.executable, "one_step.py", "dagster", "--name", "nightly", "create", "defs.py"]
    process = subprocess.Popen([*command, "--deployer-attribute-file", str(pipe)], cwd=flows.folder)
    attributes = json.loads(pipe.read_text())
    assert (flows.folder / "defs.py").is_file()
    assert process.wait(60) == 0
    assert attributes == {
        "name": "nightly",
        "flow_name": "OneStepFlow",
        "metadata": f"local@{flows.folder}",
        "additional_info": {"definitions_file": str(flows.folder / "defs.py")},
    }


def test_compiler_passes_metaflows_options(project, monkeypatch):
    flows: Project = project("decorated.py")
    flows.write("sibling.py", "VALUE = 1\n")
    flows.write("data.txt", "x")
    monkeypatch.chdir(flows.folder)
    compiler = DagsterCompiler(
        "decorated.py",
        branch="py",
        production=False,
        pylint=False,
        config_value=[("settings", {"depth": 5, "label": "python"})],
        decospecs=["retry:times=1"],
        namespace="n",
    )
    job = job_of(compiler.write("defs.py"))
    assert job.name == "shop_test_py_DecoratedFlow"
    assert job.get_node_named("start").definition.retry_policy.max_retries == 1
    result = execute(job)
    assert flows.run_of(result).data.label == "python"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tags": "abc"}, "tags is 'abc', but has to be a list of str"),
        ({"tags": [5]}, r"tags is \[5\], but has to be a list of str"),
        ({"tags": [""]}, "tag"),
        ({"decospecs": "card"}, "decospecs is 'card', but has to be a list of str"),
        ({"name": 5}, "name is 5"),
        ({"max_workers": "2"}, "max_workers is '2'"),
        ({"max_workers": True}, "max_workers is True"),
        ({"workflow_timeout": "60"}, "workflow_timeout is '60'"),
        ({"new_token": 5}, "new_token is 5"),
        ({"log_level": None}, "log_level is None, but has to be of type str"),
        ({"executor": None}, "executor is None, but has to be of type str"),
        ({"step_env": ["A=1"]}, "mapping"),
    ],
)
def test_compiler_refuses_options_of_wrong_types(project, options, message):
    file = project("one_step.py").folder / "one_step.py"
    with pytest.raises(CompileError, match=message):
        DagsterCompiler(file, **options)


def test_decorators_of_create_come_before_those_of_the_top_level(project):
    flows: Project = project()
    flows.write(
        "flow.py",
        "import os\nfrom metaflow import FlowSpec, step\n\n"
        "class WithFlow(FlowSpec):\n    @step\n    def only(self):\n"
        "        self.seen = {name: os.environ.get(name) for name in ('A', 'B')}\n\n"
        "if __name__ == '__main__':\n    WithFlow()\n",
    )
    top = ("--with", 'environment:vars={"A":"top"}', "--with", "timeout:seconds=50")
    own = ("--with", 'environment:vars={"B":"create"}', "--with", "timeout:seconds=20")
    result = flows.run("flow.py", None, *own, top_level=top)
    assert "timeout_seconds=20" in (flows.folder / "defs.py").read_text()
    flows.metaflow("flow.py", *top, "run", *own, "--run-id-file", "native")
    native = flows.metaflow_run("WithFlow", (flows.folder / "native").read_text())
    assert flows.run_of(result).data.seen == native.data.seen == {"A": None, "B": "create"}


def test_mutators_see_the_decorators_of_create(project):
    flows: Project = project("mutated.py")
    result = flows.run("mutated.py", None, "--with", "retry:times=1", "--with", "timeout:seconds=50")
    start, end = (result.job_def.get_node_named(step).definition for step in ("start", "end"))
    assert (start.retry_policy.max_retries, end.retry_policy.max_retries) == (3, 1)
    assert start.tags == end.tags == {"metaflow/memory": "123", "metaflow/cpu": "1"}
    text = (flows.folder / "defs.py").read_text()
    assert text.count("timeout_seconds=50") == 2
    assert "timeout_seconds=77" not in text
    assert flows.run_of(result)["start"].task.data.attempts == 2
    assert flows.native_run("mutated.py", "--with", "retry:times=1", "--with", "timeout:seconds=50").successful


def test_mutators_see_the_decorators_of_the_compiler_and_of_the_top_level(project, monkeypatch):
    flows: Project = project("mutated.py")
    monkeypatch.chdir(flows.folder)
    compiler = DagsterCompiler("mutated.py", decospecs=["retry:times=1"], config_value=None, metadata="local")
    text = compiler.compile("defs.py")
    assert text.count("max_retries=3") == text.count("max_retries=1") == 1
    own = ("--with", "retry:times=1")
    shell = flows.compile("mutated.py", *own, top_level=("--metadata=local", "--with", "retry:times=2"))
    assert '"--with=retry:times=1",\n        "--with=retry:times=2"' in shell.read_text()


def test_error_of_a_flow_with_mutators_is_one_message(project):
    flows: Project = project("mutated.py")
    for spec, message in (("no_such_decorator", "no_such_decorator"), ("kubernetes", "kubernetes")):
        finished = flows.metaflow("mutated.py", "dagster", "create", "--with", spec, check=False)
        assert finished.returncode == 1
        assert message in finished.stdout
        assert "Traceback" not in finished.stdout


@pytest.mark.parametrize("where", ["beside_the_flow", "in_the_working_directory"])
def test_compiler_imports_executor_and_translator_as_create_does(project, monkeypatch, where):
    flows: Project = project("one_step.py")
    elsewhere = flows.folder / "elsewhere"
    elsewhere.mkdir()
    module = (flows.folder if where == "beside_the_flow" else elsewhere) / "shop_dagster.py"
    module.write_text(
        "import dagster as dg\nfrom metaflow_pipes.runtime import DagsterMetaflowTranslator\n\n"
        "class Shop(DagsterMetaflowTranslator):\n    pass\n\n"
        "one_by_one = dg.in_process_executor.configured({}, name='one_by_one')\n"
    )
    monkeypatch.chdir(elsewhere)
    named = {"translator": "shop_dagster:Shop", "executor": "shop_dagster:one_by_one"}
    text = DagsterCompiler(flows.folder / "one_step.py", **named).compile()
    assert "from shop_dagster import Shop as custom_translator" in text
    assert "from shop_dagster import one_by_one as custom_executor" in text
    options = [argument for name, value in named.items() for argument in (f"--{name}", value)]
    command = [sys.executable, "../one_step.py", "dagster", "create", *options]
    subprocess.run(command, cwd=elsewhere, check=True, capture_output=True)
    assert "shop_dagster" not in sys.modules


def test_compilers_errors_are_those_of_create(project):
    flows: Project = project("one_step.py")
    with pytest.raises(CompileError, match=r"^--executor no_such_module:executor can't be imported: No module named"):
        DagsterCompiler(flows.folder / "one_step.py", executor="no_such_module:executor").compile()


def test_unreadable_flow_is_an_error_of_the_compiler(project, monkeypatch):
    flows: Project = project()
    flows.write("broken.py", "import no_such_module\n")
    monkeypatch.chdir(flows.folder)
    with pytest.raises(CompileError, match="no_such_module"):
        DagsterCompiler("broken.py").compile()
    with pytest.raises(CompileError, match=r"no flow file .*missing\.py"):
        DagsterCompiler("missing.py")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--name", "a-b"], "letters A-Z and a-z, digits"),
        (["--name", ""], "letters A-Z and a-z, digits"),
        (["--name", "type"], "reserve"),
        (["--with", "no_such_decorator"], "no_such_decorator"),
        (["--with", "retry:times=x"], "--with retry:times=x"),
        (["--with", "timeout:seconds=abc"], "--with timeout:seconds=abc"),
        (["--with", "kubernetes"], "requires --datastore=s3"),
        (["--kubernetes", "here"], "--kubernetes is 'here'. Use one of pod, job"),
        (["--kubernetes", "pod"], "--kubernetes pod can't be used with --executor threads"),
        (["--with", "parallel"], "graph of flow OneStepFlow"),
        (["--step-env", "=x"], "KEY=VALUE"),
        (["--max-workers", "0"], "--max-workers is 0"),
        (["--max-workers", "2", "--executor", "in_process"], "--max-workers can't be used"),
        (["--executor", "no such"], "Use threads, multiprocess, in_process, or the import path"),
        (["--executor", "no_such_module:executor"], "no_such_module"),
        (["--executor", "os:path"], "not a dagster.ExecutorDefinition"),
        (["--tag", "x" * 600], "Tag is too long"),
        (["--workflow-timeout", "0"], "--workflow-timeout is 0"),
        (["--workflow-timeout", "-5"], "--workflow-timeout is -5"),
    ],
)
def test_bad_option_is_one_message_and_leaves_the_old_file(project, options, message):
    flows: Project = project("one_step.py")
    old = flows.write("defs.py", OLD)
    assert message in flows.refuses("one_step.py", "create", "defs.py", *options)
    assert old.read_text() == OLD


def test_flow_that_fails_lint_leaves_the_old_file(project):
    flows: Project = project("one_step.py")
    source = (flows.folder / "one_step.py").read_text()
    flows.write(
        "one_step.py",
        source.replace(
            "    @step\n    def only",
            "    @step\n    def lost(self):\n        pass\n\n    @step\n    def only",
        ),
    )
    old = flows.write("defs.py", OLD)
    assert "Validity checker found an issue" in flows.refuses("one_step.py", "create", "defs.py")
    assert old.read_text() == OLD


def test_name_with_project_is_refused(project):
    flows: Project = project("decorated.py")
    flows.write("sibling.py", "VALUE = 1\n")
    assert "--branch" in flows.refuses("decorated.py", "create", "--name", "x")


def test_flow_file_can_not_be_the_output(project):
    flows: Project = project("one_step.py")
    source = (flows.folder / "one_step.py").read_text()
    (flows.folder / "link.py").symlink_to("one_step.py")
    for output in ("one_step.py", "./one_step.py", "link.py"):
        assert "flow file itself" in flows.refuses("one_step.py", "create", output)
    assert (flows.folder / "one_step.py").read_text() == source


def test_output_has_to_be_a_module(project):
    flows: Project = project("one_step.py")
    for output in ("sub.txt", "defs", "defs.PY"):
        assert "has to end in .py" in flows.refuses("one_step.py", "create", output)
    assert sorted(os.listdir(flows.folder)) == [".metaflow", "one_step.py"]


def test_output_that_can_not_be_written(project):
    flows: Project = project("one_step.py")
    (flows.folder / "a_file").write_text("")
    (flows.folder / "a_folder").mkdir()
    for output, message in (
        ("no/such/folder/defs.py", "No such file or directory"),
        ("a_file/defs.py", "Not a directory"),
        ("a_folder", "is a folder"),
    ):
        assert message in flows.refuses("one_step.py", "create", output)
    assert sorted(os.listdir(flows.folder)) == [".metaflow", "a_file", "a_folder", "one_step.py"]


def test_settings_are_baked_and_secrets_are_named_but_left_out(project):
    flows: Project = project("one_step.py")
    home = flows.folder / "home"
    home.mkdir()
    (home / "config.json").write_text(
        '{"METAFLOW_DATATOOLS_S3ROOT": "s3://bucket/data", "METAFLOW_SERVICE_AUTH_KEY": "PLANTED-KEY",'
        ' "METAFLOW_SERVICE_HEADERS": "{\\"authorization\\": \\"PLANTED-HEADER\\"}",'
        ' "METAFLOW_SERVICE_URL": "https://user:PLANTED-PASSWORD@example.com",'
        ' "METAFLOW_UI_URL": "https://ui.example.com"}'
    )
    env = {"METAFLOW_HOME": str(home), "AWS_SECRET_ACCESS_KEY": "PLANTED-ENV"}
    flows.metaflow("one_step.py", "dagster", "create", "defs.py", **env)
    text = (flows.folder / "defs.py").read_text()
    assert "PLANTED" not in text
    for name in ("METAFLOW_SERVICE_AUTH_KEY", "METAFLOW_SERVICE_HEADERS", "METAFLOW_SERVICE_URL"):
        assert f"#   {name}\n" in text
    assert '"METAFLOW_DATATOOLS_S3ROOT": "s3://bucket/data"' in text
    assert '"METAFLOW_UI_URL": "https://ui.example.com"' in text
    result = execute(job_of(flows.folder / "defs.py"))
    assert result.success


def test_options_of_a_trigger_without_effect_give_a_warning(project):
    flows: Project = project()
    flows.write(
        "flow.py",
        "from metaflow import FlowSpec, trigger, step\n\n@trigger(event='data', options={'color': 'red'})\n"
        "class DailyFlow(FlowSpec):\n    @step\n    def only(self):\n        pass\n\n"
        "if __name__ == '__main__':\n    DailyFlow()\n",
    )
    shown = flows.metaflow("flow.py", "dagster", "create", "defs.py").stdout
    assert "@trigger of flow DailyFlow has the option color, which has no effect on Dagster" in shown
