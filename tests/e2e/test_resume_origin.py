"""The run that `resume` goes on from, and what a new run has of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from support import Project


def test_parameter_that_the_origin_does_not_have_takes_its_default(project, tmp_path):
    flows: Project = project("flaky.py")
    flows.metaflow("flaky.py", "--no-pylint", "run", "--run-id-file", "run_id", "--number", "3", check=False)
    source = (flows.folder / "flaky.py").read_text()
    number = '    number = Parameter("number", default=1)\n'
    source = source.replace(number, f'{number}    more = Parameter("more", default=10)\n')
    flows.write("flaky.py", source.replace("self.doubled + 1", "self.doubled + self.more"))
    flows.write("ready", "")
    flows.compile("flaky.py", "--executor", "in_process")
    origin = (flows.folder / "run_id").read_text()
    arguments = ("--origin-run-id", origin, "--wait", "--run-id-file", "run_id")
    flows.metaflow("flaky.py", "dagster", "resume", *arguments, DAGSTER_HOME=str(tmp_path))
    assert flows.metaflow_run("FlakyFlow", (flows.folder / "run_id").read_text()).data.result == 16


def test_newest_run_of_either_side_is_resumed_and_named(project, tmp_path):
    flows: Project = project("flaky.py")
    flows.compile("flaky.py", "--executor", "in_process")

    def run_by_metaflow() -> str:
        flows.metaflow("flaky.py", "--no-pylint", "run", "--run-id-file", "run_id", check=False)
        return (flows.folder / "run_id").read_text()

    def resume() -> tuple[str, str]:
        """The id of a new run, and what the command says."""
        arguments = ("resume", "--wait", "--run-id-file", "run_id")
        finished = flows.metaflow("flaky.py", "dagster", *arguments, check=False, DAGSTER_HOME=str(tmp_path))
        return (flows.folder / "run_id").read_text(), finished.stdout

    first = run_by_metaflow()
    resumed, output = resume()
    assert f"Resuming FlakyFlow/{first}, the latest run of the flow." in output
    _, output = resume()
    assert f"Resuming FlakyFlow/{resumed}, the latest run of the flow." in output
    last = run_by_metaflow()
    assert f"Resuming FlakyFlow/{last}, the latest run of the flow." in resume()[1]
