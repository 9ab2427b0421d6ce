"""Production tokens: who may change a deployment, and the namespace of its runs; `delete` and `list-jobs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support import Project, execute, job_of

from metaflow_pipes import CompileError, DagsterCompiler, DeploymentError
from metaflow_pipes.deployment.definitions_file import read_deployment
from metaflow_pipes.deployment.registry import registered

if TYPE_CHECKING:
    import subprocess

# Tokens begin like this, and Metaflow's generator gives the same ones everywhere.
FIRST, SECOND = "onestepflow-0-", "onestepflow-1-"
FLOW = """
from metaflow import FlowSpec, current, get_namespace, project, step

{decorator}
class WhereFlow(FlowSpec):
    @step
    def start(self):
        self.items = [1, 2]
        self.seen = facts()
        self.next(self.work, foreach="items")

    @step
    def work(self):
        self.seen = facts()
        self.next(self.join)

    @step
    def join(self, inputs):
        self.seen = facts()
        self.next(self.end)

    @step
    def end(self):
        self.seen = facts()


def facts():
    names = ("project_name", "branch_name", "is_production", "is_user_branch", "namespace", "username")
    return {{**{{name: current.get(name) for name in names}}, "get_namespace": get_namespace()}}


if __name__ == "__main__":
    WhereFlow()
"""


def create(flows: Project, *options: str, user: str = "ann") -> subprocess.CompletedProcess[str]:
    """`create` by a user with a Metaflow folder of their own."""
    return flows.metaflow("one_step.py", "dagster", "create", "defs.py", *options, **variables_of(flows, user))


def refuses_to_create(flows: Project, *options: str, user: str = "ann") -> str:
    """The message with which `create` refuses."""
    return flows.refuses("one_step.py", "create", "defs.py", *options, **variables_of(flows, user))


def variables_of(flows: Project, user: str) -> dict[str, str]:
    return {"METAFLOW_USER": user, "METAFLOW_HOME": str(flows.folder / f"home-{user}")}


def token_in(flows: Project, file: str = "defs.py") -> str:
    return read_deployment(flows.folder / file).production_token or ""


def test_token_is_made_once_and_kept(project):
    flows: Project = project("one_step.py")
    shown = create(flows).stdout
    token, text = token_in(flows), (flows.folder / "defs.py").read_text()
    assert token.startswith(FIRST)
    assert f"Its runs are in the new Metaflow namespace production:{token}\n" in shown
    assert f"Its runs are in the Metaflow namespace production:{token}\n" in create(flows).stdout
    assert (flows.folder / "defs.py").read_text() == text
    assert f'"METAFLOW_PRODUCTION_TOKEN": "{token}"' in text
    assert "secrets" not in text


def test_another_user_needs_the_token_once(project):
    flows: Project = project("one_step.py")
    create(flows)
    token, text = token_in(flows), (flows.folder / "defs.py").read_text()
    for options in ([], ["--authorize", "guessed"], ["--generate-new-token"], ["--new-token", "mine"]):
        shown = refuses_to_create(flows, *options, user="bob")
        assert "Incorrect production token" in shown
        assert "deployed by the user ann" in shown
        assert "create --authorize TOKEN" in shown
        assert token not in shown
        assert (flows.folder / "defs.py").read_text() == text
    create(flows, "--authorize", f"production:{token}", user="bob")
    assert token_in(flows) == token
    create(flows)  # the token is in ann's folder
    create(flows, user="bob")  # and now in bob's
    assert read_deployment(flows.folder / "defs.py").user == "bob"
    assert "Incorrect production token" in refuses_to_create(flows, user="carl")


def test_flow_moves_to_a_new_token(project):
    flows: Project = project("one_step.py")
    create(flows)
    create(flows, "--generate-new-token")
    assert token_in(flows).startswith(SECOND)
    create(flows, "--new-token", "production:mine")
    assert token_in(flows) == "mine"
    create(flows)
    assert token_in(flows) == "mine"
    for options, message in (
        (["--generate-new-token"], "Use --new-token again"),
        (["--generate-new-token", "--new-token", "x"], "can't be used together"),
        (["--new-token", "a b"], "--new-token is 'a b'"),
        (["--new-token", ""], "--new-token is ''"),
    ):
        assert message in refuses_to_create(flows, *options)
        assert token_in(flows) == "mine"


def test_token_follows_the_job_and_not_the_file(project):
    flows: Project = project("one_step.py")
    create(flows, "--new-token", "mine")
    flows.metaflow("one_step.py", "dagster", "create", "more.py", METAFLOW_USER="ann")
    assert token_in(flows, "more.py").startswith(FIRST)  # another registry knows nothing of it
    home = {"METAFLOW_HOME": str(flows.folder / "home-ann"), "METAFLOW_USER": "ann"}
    flows.metaflow("one_step.py", "dagster", "create", "more.py", "--name", "other", **home)
    assert token_in(flows, "more.py").startswith("other-0-")
    flows.metaflow("one_step.py", "dagster", "create", "more.py", **home)
    assert token_in(flows, "more.py") == "mine"
    # what is replaced is another job, but it is still ann's
    assert "Incorrect production token" in refuses_to_create(flows, "--name", "other", user="bob")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ("shop", "user.tester", False, True)),
        (["--branch", "x"], ("shop", "test.x", False, False)),
        (["--production"], ("shop", "prod", True, False)),
        (["--production", "--branch", "x"], ("shop", "prod.x", True, False)),
        (None, (None, None, None, None)),
    ],
)
def test_runs_are_in_the_namespace_of_the_token(project, monkeypatch, options, expected):
    monkeypatch.setenv("METAFLOW_PRODUCTION_TOKEN", "of-the-environment")
    flows: Project = project()
    flows.write("flow.py", FLOW.format(decorator="" if options is None else '@project(name="shop")'))
    definitions = flows.compile("flow.py", top_level=tuple(options or ()))
    token = token_in(flows)
    assert token.startswith("whereflow-0-" if options is None else "mfprj-")
    result = execute(job_of(definitions))
    assert result.success
    run = flows.run_of(result)
    tasks = [task for step in run for task in step]
    assert len(tasks) == 5
    for task in tasks:
        assert task.data.seen == {
            **dict(zip(("project_name", "branch_name", "is_production", "is_user_branch"), expected, strict=True)),
            "namespace": f"production:{token}",
            "get_namespace": f"production:{token}",
            "username": "tester",
        }
    for tags in (run.system_tags, *(task.system_tags for task in tasks)):
        assert {f"production:{token}", f"dagster_run_id:{result.run_id}"} <= tags
        assert "user:tester" not in tags  # as on Metaflow's other schedulers: one namespace, not two
        assert ("project:shop" in tags) is (options is not None)
        assert (f"project_branch:{expected[1]}" in tags) is (options is not None)


def test_branches_of_a_project_have_tokens_of_their_own_as_on_argo(project):
    from metaflow.plugins.aws.step_functions.production_token import new_token

    flows: Project = project()
    flows.write("flow.py", FLOW.format(decorator='@project(name="shop")'))
    tokens = []
    for branch in ("x", "y"):
        flows.compile("flow.py", top_level=("--branch", branch))
        tokens.append(token_in(flows))
    # base32 of the SHA-1 of `shop.test.x`
    assert tokens[0] == new_token("mfprj-" + tokens[0].split("-")[1])
    assert tokens[0] != tokens[1]
    assert "because it has @project" in flows.refuses("flow.py", "create", "--new-token", "mine")


def test_namespace_of_create_is_that_of_the_steps(project):
    flows: Project = project()
    flows.write("flow.py", FLOW.format(decorator=""))
    result = flows.run("flow.py", None, "--namespace", "user:ann")
    run = flows.run_of(result)
    assert run["end"].task.data.seen["get_namespace"] == "user:ann"
    assert f"production:{token_in(flows)}" in run.system_tags


def test_compiler_takes_tokens(project, monkeypatch):
    flows: Project = project("one_step.py")
    monkeypatch.chdir(flows.folder)
    create(flows)
    text, token = (flows.folder / "defs.py").read_text(), token_in(flows)
    with pytest.raises(DeploymentError, match="deployed by the user ann"):
        DagsterCompiler("one_step.py").write("defs.py")
    compiler = DagsterCompiler("one_step.py", authorize=token)
    assert compiler.compile("defs.py") == text.replace('"ann"', '"tester"')
    compiler.write("defs.py")
    DagsterCompiler("one_step.py", generate_new_token=True).write("defs.py")
    assert token_in(flows).startswith(SECOND)
    DagsterCompiler("one_step.py", new_token="mine").write("defs.py")
    assert token_in(flows) == "mine"
    with pytest.raises(CompileError, match="can't be used together"):
        DagsterCompiler("one_step.py", generate_new_token=True, new_token="x")


def test_delete_removes_file_and_entry(project):
    flows: Project = project("one_step.py")
    flows.compile("one_step.py")
    shown = flows.metaflow("one_step.py", "dagster", "delete").stdout
    assert f"Deleted the Dagster job OneStepFlow: {flows.folder / 'defs.py'}" in shown
    assert "under way are not ended, but can't begin another step" in shown
    assert not (flows.folder / "defs.py").exists()
    assert registered() == []
    assert "Flow OneStepFlow is not deployed as job OneStepFlow" in flows.refuses("one_step.py", "delete")


def test_delete_by_another_user_needs_the_token(project):
    flows: Project = project("one_step.py")
    definitions = flows.compile("one_step.py", "--name", "nightly")
    command = ("dagster", "delete", "--definitions-file", "defs.py")
    shown = flows.refuses("one_step.py", *command[1:], METAFLOW_USER="bob", METAFLOW_HOME="/nowhere")
    assert "Incorrect production token" in shown
    assert "delete --authorize TOKEN" in shown
    assert definitions.is_file()
    flows.metaflow("one_step.py", *command, "--authorize", token_in(flows), METAFLOW_USER="bob")
    assert not definitions.exists()


def test_delete_means_the_job_of_the_name_and_of_this_flow(project):
    flows: Project = project("one_step.py", "split.py")
    flows.compile("one_step.py", to="a.py")
    flows.compile("one_step.py", "--name", "nightly", to="b.py")
    flows.compile("split.py", to="c.py")
    assert "belongs to the flow SplitFlow" in flows.refuses("one_step.py", "delete", "--definitions-file", "c.py")
    flows.metaflow("one_step.py", "dagster", "--name", "nightly", "delete")
    assert [(flows.folder / name).is_file() for name in ("a.py", "b.py", "c.py")] == [True, False, True]


def test_list_jobs_is_a_plain_list(project):
    flows: Project = project("one_step.py", "split.py")
    assert "No job of flow OneStepFlow" in flows.metaflow("one_step.py", "dagster", "list-jobs").stdout
    one = flows.compile("one_step.py", to="a.py")
    two = flows.compile("one_step.py", "--name", "b", to="b.py")
    three = flows.compile("split.py", to="c.py")
    shown = flows.metaflow("one_step.py", "--quiet", "dagster", "list-jobs").stdout
    assert shown.splitlines() == [f"OneStepFlow  OneStepFlow  {one}", f"b            OneStepFlow  {two}"]
    assert f"SplitFlow    SplitFlow    {three}" in flows.metaflow("one_step.py", "dagster", "list-jobs", "--all").stdout
