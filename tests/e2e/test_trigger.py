"""Runs from the shell: launched in the background, watched and listed, on the instance of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from shell import Shell, shell_of
from support import Project, execute, failures, job_of, path_with_python, values_of

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    folder = tmp_path_factory.mktemp("trigger") / "project"
    flows = Project.of(folder, "parameters.py", "required.py", "flaky.py", "foreach.py", "slow.py")
    flows.write("data.txt", "the data\n")
    with shell_of(flows) as shell:
        yield shell


def test_trigger_names_the_run_before_it_begins_and_outlives_the_command(shell):
    finished = shell("flaky.py", "trigger", "--number", "-1", "--run-id-file", "run_id")
    run_id = (shell.flows.folder / "run_id").read_text()
    assert f"FlakyFlow/{run_id}" in finished.stdout
    assert f"/runs/{run_id.removeprefix('dagster-')}" in finished.stdout
    shell.reaches(run_id, dg.DagsterRunStatus.FAILURE)
    run = shell.flows.metaflow_run("FlakyFlow", run_id)
    assert run["start"].task.exception is not None
    assert shell.status("flaky.py", run_id) == "FAILED"


def test_the_file_that_was_compiled_last_is_triggered_and_named(project, tmp_path):
    flows: Project = project("flaky.py")
    for files in ((), ("other.py",)):
        flows.metaflow("flaky.py", "dagster", "create", *files, "--executor", "in_process")
        finished = flows.metaflow("flaky.py", "dagster", "trigger", DAGSTER_HOME=str(tmp_path))
        assert f"Definitions:   {files[0] if files else 'flakyflow_dagster.py'}\n" in finished.stdout


def test_wait_shows_the_steps_and_succeeds_with_the_run(shell):
    finished = shell("foreach.py", "trigger", "--wait")
    assert finished.returncode == 0
    lines = finished.stdout.splitlines()
    assert "start: running" in lines
    assert any(line.startswith("start: done (") for line in lines)
    assert any(" items, " in line for line in lines)
    assert any("succeeded after" in line for line in lines)


def test_wait_fails_with_the_run_and_says_why(shell):
    finished = shell("flaky.py", "trigger", "--wait", "--job-name", "FlakyFlow", check=False)
    assert finished.returncode == 1
    assert "middle: failed" in finished.stdout
    assert "ValueError: not ready" in finished.stdout
    assert "Traceback" not in finished.stdout


def test_run_id_is_written_to_what_a_link_leads_to(shell):
    link = shell.flows.folder / "link"
    link.symlink_to("linked")
    shell("flaky.py", "trigger", "--run-id-file", link.name)
    assert link.is_symlink()
    assert link.read_text().startswith("dagster-")


def test_every_way_to_give_a_parameter_keeps_its_type(shell):
    text = "--a 'b' \"c\",\n{{ d }} é"
    run_id = shell.triggered(
        "parameters.py",
        *("--text", text),
        *("--run-param", "integer=-7"),
        *("--flag", "no"),
        *("--structure", '{"x": [1, null, true]}'),
        *("--listed", "p,q r"),
        *("--repeated", "5", "--repeated", "6"),
        *("--run-param", "learning-rate=1e-9"),
        *("--included", "data.txt"),
        METAFLOW_RUN_FRACTION="2.5",
        METAFLOW_RUN_INTEGER="1000",
    )
    shell.reaches(run_id, dg.DagsterRunStatus.SUCCESS)
    values = values_of(shell.flows.metaflow_run("ParametersFlow", run_id))["end"]
    expected = {
        "text": text,
        "integer": -7,
        "flag": False,
        "structure": {"x": [1, None, True]},
        "listed": ["p", "q r"],
        "repeated": (5, 6),
        "dashed": 1e-9,
        "included": "the data\n",
        "fraction": 2.5,
        "keyword": 1,
    }
    found = {name: tuple(values[name]) if name == "repeated" else values[name] for name in expected}
    assert found == expected


def test_status_and_lists_find_runs_by_any_of_their_ids(shell):
    run_id = shell.triggered("flaky.py")
    dagster_run_id = shell.reaches(run_id, dg.DagsterRunStatus.FAILURE).run_id
    # which ids mean which run: tests/unit/test_runs.py
    for identifier in (run_id[:20], dagster_run_id):
        assert run_id in shell("flaky.py", "status", identifier).stdout
    assert run_id in shell("flaky.py", "list-runs", "--failed").stdout
    assert run_id not in shell("flaky.py", "list-runs", "--successful").stdout
    assert run_id in shell("flaky.py", "list-runs", "--successful", "--failed").stdout
    assert run_id not in shell("foreach.py", "list-runs").stdout
    assert len(shell("flaky.py", "list-runs", "--last", "1").stdout.splitlines()) == 2


def test_wait_says_why_a_run_fails_without_a_step(shell):
    definitions = (shell.flows.folder / "flakyflow_dagster.py").read_text()
    shell.flows.write("broken.py", f"{definitions}\nimport sys\nassert 'execute_run' not in sys.argv, 'a bad day'\n")
    finished = shell("flaky.py", "trigger", "--wait", "--definitions-file", "broken.py", check=False)
    assert finished.returncode == 1
    assert "AssertionError: a bad day" in finished.stdout


def test_wait_shows_the_end_of_the_log_of_a_run_whose_process_ends_at_once(shell):
    definitions = (shell.flows.folder / "flakyflow_dagster.py").read_text()
    ending = "if 'execute_run' in sys.argv:\n    print('a bad day', flush=True)\n    os._exit(3)\n"
    shell.flows.write("ending.py", f"{definitions}\nimport os\nimport sys\n\n{ending}")
    finished = shell("flaky.py", "trigger", "--wait", "--definitions-file", "ending.py", check=False)
    assert finished.returncode == 1
    assert f"has ended with exit code 3. Its output, {shell.home}/metaflow_runs/" in finished.stdout
    assert ".log, ends with:\n    a bad day" in finished.stdout


def test_run_needs_no_dagster_on_the_path_and_takes_none_from_there(shell, tmp_path):
    other = tmp_path / "dagster"
    other.write_text("#!/bin/sh\necho this is another environment\nexit 3\n")
    other.chmod(0o755)
    for path in (os.defpath, f"{tmp_path}{os.pathsep}{os.defpath}"):
        finished = shell("foreach.py", "trigger", "--wait", PATH=path)
        assert "succeeded after" in finished.stdout


@pytest.mark.parametrize(
    ("flow", "arguments", "env", "words"),
    [
        ("flaky.py", ["trigger", "--nope", "1"], {}, ["--nope"]),
        ("flaky.py", ["trigger", "--run-id-fil", "1"], {}, [". Did you mean --run-id-file? `flaky.py dagster"]),
        ("flaky.py", ["trigger", "--run-param", "nope=1"], {}, ["nope", "FlakyFlow", "number"]),
        ("flaky.py", ["trigger", "--run-param", "nope"], {}, ["KEY=VALUE"]),
        ("flaky.py", ["trigger", "--number", "x"], {}, ["number", "int", "'x'"]),
        ("required.py", ["trigger"], {}, ["requires", "--"]),
        ("flaky.py", ["trigger", "--definitions-file", "nope.py"], {}, ["nope.py"]),
        ("flaky.py", ["trigger", "--definitions-file", "slowflow_dagster.py"], {}, ["SlowFlow", "FlakyFlow"]),
        ("flaky.py", ["trigger", "--run-id-file", "nope/run_id"], {}, ["--run-id-file nope/run_id"]),
        ("flaky.py", ["trigger"], {"DAGSTER_HOME": "/nope"}, ["DAGSTER_HOME", "/nope"]),
        ("flaky.py", ["trigger", "--url", "http://localhost:9"], {}, ["http://localhost:9", "can't be reached"]),
        ("flaky.py", ["list-runs"], {"DAGSTER_WEBSERVER_URL": "localhost"}, ["http://"]),
        ("flaky.py", ["status", "nope"], {}, ["nope", "FlakyFlow"]),
        ("flaky.py", ["terminate", "nope"], {}, ["nope", "FlakyFlow"]),
        ("flaky.py", ["status"], {}, ["RUN"]),
        ("flaky.py", ["status", "OtherFlow/dagster-1"], {}, ["OtherFlow", "FlakyFlow"]),
        # by the names of metaflow-dagster
        ("flaky.py", ["trigger", "--job-name", "nope"], {}, ["is called --name here", "not deployed as job nope"]),
        ("flaky.py", ["resume", "--run-id", "nope"], {}, ["is called --origin-run-id here", "nope"]),
        ("flaky.py", ["resume", "--run-id", "a", "--origin-run-id", "b"], {}, ["--run-id", "is a", "Give one"]),
    ],
)
def test_mistake_is_one_clear_message(shell, flow, arguments, env, words):
    shown = shell.flows.refuses(flow, *arguments, **{"DAGSTER_HOME": str(shell.home), **env})
    assert "Dagster error" in shown
    for word in words:
        assert word in shown


def test_ambiguous_beginning_of_an_id_is_refused(shell):
    ids = {shell.triggered("flaky.py"), shell.triggered("flaky.py")}
    for run_id in ids:
        shell.reaches(run_id, dg.DagsterRunStatus.FAILURE)
    finished = shell("flaky.py", "status", "dagster-", check=False)
    assert finished.returncode == 1
    assert all(run_id in finished.stdout for run_id in ids)


def test_help_of_trigger_shows_the_defaults_of_parameters(shell):
    finished = shell("parameters.py", "trigger", "--help")
    shown = [line.split() for line in finished.stdout.splitlines()]
    assert ["--learning-rate", "FLOAT", "With", "a", "dash.", "[default:", "0.1]"] in shown
    assert ["--repeated", "INTEGER", "[default:", "1,", "2]"] in shown
    assert ["--deployed", "TEXT", "[default:", "found", "when", "the", "flow", "is", "deployed]"] in shown
    # there they are those of the run that is resumed
    assert "0.1]" not in shell("parameters.py", "resume", "--help").stdout


def test_parameters_with_the_names_of_options_leave_them_another(project, tmp_path):
    flows: Project = project("clashing.py")
    result = flows.run("clashing.py", {"url": "u"})
    assert flows.run_of(result).data.seen == ["u", False, "none", 0, "few", "no help"]
    shell = Shell(flows, tmp_path / "home")
    shell.home.mkdir()
    (shell.home / "dagster.yaml").touch()
    given = ("--url", "u", "--wait", "yes", "--definitions_file", "d", "--step-to-rerun", "5", "--help", "me")
    finished = shell("clashing.py", "trigger", *given, "--dagster-wait", "--dagster-definitions-file", "defs.py")
    assert "end" in finished.stdout
    run_id = finished.stdout.split("Metaflow run:  ClashingFlow/")[1].split()[0]
    assert flows.metaflow_run("ClashingFlow", run_id).data.seen == ["u", True, "d", 5, "few", "me"]
    shell("clashing.py", "resume", "end", "--url", "v", "--dagster-wait", "--origin-run-id", run_id)
    shown = flows.refuses("clashing.py", "trigger", "--url", "u", "--dagster-url", "http://localhost:1")
    assert "http://localhost:1" in shown
    assert "--dagster-url" in flows.refuses("clashing.py", "trigger", "--dagster-urls", "x")


def test_interrupted_wait_is_no_error_of_dagster(shell):
    arguments = [sys.executable, "slow.py", "--quiet", "dagster", "trigger", "--wait"]
    waiting = subprocess.Popen(
        arguments,
        cwd=shell.flows.folder,
        env={**os.environ, "DAGSTER_HOME": str(shell.home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    shell.pid_of_step()
    waiting.send_signal(signal.SIGINT)
    output, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 1
    assert "Interrupted:" in output
    assert "Dagster error" not in output
    shell("slow.py", "terminate", output.rpartition("terminate ")[2].split()[0])


def test_printed_commands_for_logs_find_a_run_in_a_datastore_of_its_own(project, tmp_path):
    flows: Project = project("flaky.py")
    elsewhere = ("--datastore-root", str(tmp_path / "elsewhere"))
    definitions = flows.compile("flaky.py", "--executor", "in_process", top_level=elsewhere)
    arguments = ("trigger", "--number", "-1", "--wait", "--run-id-file", "run_id")
    finished = flows.metaflow("flaky.py", *elsewhere, "dagster", *arguments, check=False, DAGSTER_HOME=str(tmp_path))
    (printed,) = (line.split("Logs:")[1].strip() for line in finished.stdout.splitlines() if "Logs:" in line)
    (failed,) = failures(execute(job_of(definitions), {"number": -1}), "start")
    of_the_failure = failed.event_specific_data.user_failure_data.metadata["logs"].value.strip("`")
    activated = {**os.environ, "PATH": path_with_python()}
    for command, env in ((printed.replace("/STEP", "/start"), None), (of_the_failure, activated)):
        shown = subprocess.run(
            command, shell=True, cwd=flows.folder, env=env, capture_output=True, text=True, check=False
        )
        assert "Traceback" in shown.stdout, command


def test_changed_flow_is_not_triggered(project, tmp_path):
    flows: Project = project("flaky.py")
    flows.compile("flaky.py")
    flows.write("flaky.py", (flows.folder / "flaky.py").read_text() + "\n")
    shown = flows.refuses("flaky.py", "trigger", DAGSTER_HOME=str(tmp_path))
    assert "has changed since" in shown
    assert "dagster create" in shown


def test_status_shows_the_steps_that_were_deployed_and_not_those_of_the_flow_now(shell):
    run_id = shell.triggered("foreach.py")
    shell.reaches(run_id, dg.DagsterRunStatus.SUCCESS)
    source = (shell.flows.folder / "foreach.py").read_text()
    try:
        shell.flows.write("foreach.py", source.replace("work", "labour"))
        shown = shell("foreach.py", "status", run_id).stdout
    finally:
        shell.flows.write("foreach.py", source)
    assert any(
        line.split()[:2] == ["✓", "work"] and line.endswith("3/3") for line in map(str.strip, shown.splitlines())
    )


def test_nodes_of_num_parallel_are_shown_as_one_step(project, tmp_path):
    flows: Project = project("parallel_steps.py")
    flows.compile("parallel_steps.py", "--executor", "in_process")
    finished = flows.metaflow("parallel_steps.py", "dagster", "trigger", "--wait", DAGSTER_HOME=str(tmp_path))
    assert "train: done (" in finished.stdout
    assert "inner: done (2 items" in finished.stdout


def test_without_dagster_home_an_instance_in_the_users_home_is_made(project, tmp_path):
    flows: Project = project("flaky.py")
    flows.write("ready", "")
    flows.compile("flaky.py", "--executor", "in_process")
    finished = flows.metaflow("flaky.py", "dagster", "trigger", "--wait", HOME=str(tmp_path))
    own = os.path.relpath(Path(sys.executable).with_name("dagster"), flows.folder)
    shown = min(own, str(Path(sys.executable).with_name("dagster")), key=len)
    assert f"DAGSTER_HOME=~/.metaflow-pipes/dagster {shown} dev -f defs.py" in finished.stdout
    listed = flows.metaflow("flaky.py", "dagster", "list-runs", HOME=str(tmp_path)).stdout
    assert "SUCCEEDED" in listed
    with dg.DagsterInstance.from_config(str(tmp_path / ".metaflow-pipes" / "dagster")) as instance:
        (run,) = instance.get_runs()
    assert run.is_success
    assert run.tags["metaflow/flow"] == "FlakyFlow"
