"""Each code block of README and docs is run, or says beside it why it is not: see `tests/manual.py`."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import sys
from typing import TYPE_CHECKING

import dagster as dg
import pytest
import yaml
from manual import DOCS, PAGES, ROOT, TUTORIAL, Block, blocks_of
from metaflow import cli
from metaflow.cli_components import run_cmds
from metaflow.plugins.argo.argo_workflows_cli import argo_workflows
from metaflow.plugins.aws.step_functions.step_functions_cli import step_functions
from support import EXAMPLES, FLOWS, Project, load

import metaflow_pipes.io
import metaflow_pipes.runtime
from metaflow_pipes import names
from metaflow_pipes.cli.group import dagster
from metaflow_pipes.file_format import installed_version

if TYPE_CHECKING:
    from pathlib import Path

    from metaflow._vendor import click

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
SHELL = ("", "shell", "bash")
COMMAND = re.compile(r"python \w+\.py (?:.*? )?dagster (?P<name>[a-z-]+)(?P<rest>.*)")


def _blocks(key: str, *languages: str):
    chosen = [
        block
        for block in BLOCKS
        if block.key == key and block.page != TUTORIAL and (not languages or block.language in languages)
    ]
    return pytest.mark.parametrize("block", chosen, ids=str)


def _prose(page: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^( *)(```|~~~).*?^\1\2", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def _options(command: click.Command) -> set[str]:
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two of the examples and their definitions files."""
    project = Project.of(tmp_path_factory.mktemp("examples") / "project")
    for flow in ("train", "sweep"):
        shutil.copy(EXAMPLES / f"{flow}_flow.py", project.folder)
        project.compile(f"{flow}_flow.py", to=f"{flow}flow_dagster.py")
    return project.folder


@pytest.fixture(scope="module")
def manual(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A folder with the flow that the manual's commands are about, and the files that its pages show."""
    project = Project.of(tmp_path_factory.mktemp("manual") / "project")
    shutil.copy(FLOWS / "manual.py", project.folder / "flow.py")
    for block in BLOCKS:
        shown = re.match(r"# (\w+/\w+\.py)\n", block.text)
        if shown:
            (project.folder / shown[1]).parent.mkdir(exist_ok=True)
            (project.folder / shown[1]).write_text(block.text)
    return project


def test_each_block_has_a_way_to_be_tested():
    unknown = [
        str(block)
        for block in BLOCKS
        if block.key not in ("run", "part of", "synopsis", "not run")
        or (block.key == "not run" and not block.value)
        or (block.key == "run" and block.language not in (*SHELL, "python", "yaml"))
    ]
    assert not unknown
    named = {path for block in BLOCKS if block.key == "not run" for path in re.findall(r"tests/[\w/.]+\b", block.value)}
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
    fences = sum(len(re.findall(r"^ *(?:```|~~~)", page.read_text(), re.MULTILINE)) for page in PAGES)
    assert fences == 2 * len(BLOCKS)
    # Markdown takes a paragraph that is indented so far for code, too
    assert [page.name for page in PAGES if re.search(r"\n\n {4,}\S", _prose(page))] == []


@_blocks("run", *SHELL)
def test_commands_compile_the_flow(block: Block, manual: Project):
    for command in block.commands:
        program, flow, *arguments = shlex.split(command)
        assert (program, arguments[:2]) == ("python", ["dagster", "create"]), (
            f"{block} needs a reason why it is not run"
        )
        manual.metaflow(flow, "--no-pylint", *arguments)


@_blocks("run", "python")
def test_python_runs(block: Block, examples: Path, monkeypatch):
    monkeypatch.chdir(examples)
    monkeypatch.syspath_prepend(str(examples))
    # a file of its own, in which Metaflow finds the source of a flow
    path = examples / f"block_{block.page.stem.replace('-', '_')}_{block.line}.py"
    path.write_text(f"{block.value}\n{block.text}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    known = dict(sys.modules)
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    finally:
        # other tests have definitions files of the same names
        for name in sys.modules.keys() - known.keys():
            if str(getattr(sys.modules[name], "__file__", None)).startswith(str(examples)):
                del sys.modules[name]


@_blocks("run", "yaml")
def test_run_config_is_one(block: Block, manual: Project):
    definitions = load(manual.compile("flow.py", to="flow_dagster.py")).defs
    config = yaml.safe_load(block.text)
    is_of_assets = "TrainFlow" in config["ops"]
    job = (
        definitions.resolve_implicit_global_asset_job_def()
        if is_of_assets
        else definitions.resolve_job_def("TrainFlow")
    )
    assert dg.validate_run_config(job, config)["ops"]


@_blocks("part of")
def test_part_stands_in_the_definitions_file(block: Block, examples: Path):
    # a release has one place for its version, which is not the manual
    text = re.sub(r"\b\d+\.\d+\.\d+\b", installed_version(), block.text)
    assert text in (examples / block.value).read_text()


def test_definitions_file_is_explained_line_by_line(examples: Path):
    page = (DOCS / "reference" / "definitions-file.md").read_text()
    text = (examples / "trainflow_dagster.py").read_text()
    named = re.findall(r"\b([A-Za-z_]\w*) ?=(?!=)|\b(\w+)\(|^    (\w+),$", text, re.MULTILINE)
    assert {name for name in map("".join, named) if not re.search(rf"\b{name}\b", page)} == set()


@_blocks("synopsis")
def test_synopsis_has_options_that_there_are(block: Block):
    text = re.sub(r"\n +", " ", block.text)
    commands = [COMMAND.fullmatch(line) for line in text.splitlines()]
    assert commands
    for found in commands:
        assert found is not None
        assert set(re.findall(r"--[a-z-]+", found["rest"])) <= _options(dagster.commands[found["name"]]), found[0]


@pytest.mark.parametrize(("name", "page"), [("create", "create.md"), ("trigger", "runs.md")])
def test_synopsis_has_all_options(name: str, page: str):
    shown = " ".join(block.text for block in blocks_of(DOCS / page) if block.key == "synopsis")
    missing = [
        parameter.opts
        for parameter in dagster.commands[name].params
        if not getattr(parameter, "hidden", True)
        and not any(option in re.findall(r"--[a-z-]+", shown) for option in parameter.opts)
    ]
    assert missing == []


@pytest.mark.parametrize(
    ("scheduler", "commands"),
    [
        ("`python flow.py run`", {"run": run_cmds.run, "resume": run_cmds.resume}),
        ("Argo Workflows", argo_workflows.commands),
        ("Step Functions", step_functions.commands),
    ],
    ids=["run", "argo", "step functions"],
)
def test_each_option_of_another_scheduler_has_its_counterpart(scheduler: str, commands: dict[str, click.Command]):
    _, _, behind = (DOCS / "elsewhere.md").read_text().partition(f"\n## From {scheduler}\n")
    section, _, _ = behind.partition("\n## ")
    missing = {
        (name, *parameter.opts)
        for name, command in commands.items()
        for parameter in command.params
        if parameter.opts[0].startswith("-")
        and not getattr(parameter, "hidden", False)
        and not any(re.search(rf"{option}(?![\w-])", section) for option in parameter.opts)
    }
    assert missing == set()


def test_python_reference_has_all_public_names():
    shown = set(re.findall(r"^::: (\S+)$", (DOCS / "reference" / "api.md").read_text(), re.MULTILINE))
    public = {
        f"{module.__name__}.{name}"
        for module in (metaflow_pipes, metaflow_pipes.io, metaflow_pipes.runtime)
        for name in module.__all__
    }
    assert public <= shown
    for path in shown - public:
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name)


def test_tags_and_variables_are_in_the_reference():
    page = (DOCS / "reference" / "tags.md").read_text()
    # what Dagster gives a run by itself
    dagsters = {names.BACKFILL_TAG, names.PARENT_RUN_ID_TAG, names.RESUME_RETRY_TAG}
    tags = {value for name, value in vars(names).items() if name.endswith(("_TAG", "_TAG_PREFIX"))} - dagsters
    assert [tag for tag in sorted(tags) if f"`{tag}" not in page] == []
    variables = {variable for of in PAGES for variable in re.findall(r"`(METAFLOW_PIPES_\w+)`", of.read_text())}
    assert [variable for variable in sorted(variables) if f"| `{variable}` |" not in page] == []


# Options that no command of ours or of Metaflow's lists: Metaflow's own that it adds to each flow with `Config`s or
# `@project`, those of `dagster`, `dg`, `uv` and `mkdocs`, and those for parameters of flows that a page speaks of.
OTHERS = {
    *("--branch", "--config", "--config-value", "--production"),
    *("--assets", "--config-json", "--flow-file", "--format", "--job", "--no-sync", "--select", "--strict"),
    *("--alpha", "--dagster-url"),
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_in_the_text_are_there(page: Path):
    named = {
        option
        for code in re.findall(r"`([^`\n]+)`", _prose(page))
        for option in re.findall(r"(?<![\w-])--[a-z][a-z_-]+", code)
    }
    ours = set().union(*map(_options, (dagster, *dagster.commands.values())))
    metaflows = set().union(
        *map(_options, (cli.start, run_cmds.run, run_cmds.resume)),
        *map(_options, (*argo_workflows.commands.values(), *step_functions.commands.values())),
    )
    # `--notify-...` stands for all options that begin so
    assert {option for option in named - ours - metaflows - OTHERS if not option.endswith("-")} == set()
