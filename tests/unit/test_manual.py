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
from manual import PAGES, ROOT, TUTORIAL, Block, blocks_of
from support import EXAMPLES, FLOWS, Project, load

from metaflow_pipes.cli.group import dagster

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
    assert block.text in (examples / block.value).read_text()


@_blocks("synopsis")
def test_synopsis_has_options_that_there_are(block: Block):
    text = re.sub(r"\n +", " ", block.text)
    commands = [COMMAND.fullmatch(line) for line in text.splitlines()]
    assert commands
    for found in commands:
        assert found is not None
        assert set(re.findall(r"--[a-z-]+", found["rest"])) <= _options(dagster.commands[found["name"]]), found[0]


# Options that no command of ours or of Metaflow's lists: Metaflow's own that it adds to each flow with `Config`s or
# `@project`, those of `dagster`, `dg`, `uv` and `mkdocs`, and those for parameters of flows that a page speaks of.
OTHERS = {
    *("--branch", "--config", "--config-value", "--production"),
    *("--assets", "--config-json", "--flow-file", "--format", "--job", "--no-sync", "--select", "--strict"),
    *("--alpha", "--dagster-url"),
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_in_the_text_are_there(page: Path):
    from metaflow import cli
    from metaflow.cli_components import run_cmds
    from metaflow.plugins.argo.argo_workflows_cli import argo_workflows
    from metaflow.plugins.aws.step_functions.step_functions_cli import step_functions

    text = re.sub(r"^(```|~~~).*?^\1", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    named = {
        option for code in re.findall(r"`([^`\n]+)`", text) for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", code)
    }
    ours = set().union(*map(_options, (dagster, *dagster.commands.values())))
    metaflows = set().union(
        *map(_options, (cli.start, run_cmds.run, run_cmds.resume)),
        *map(_options, (*argo_workflows.commands.values(), *step_functions.commands.values())),
    )
    # `--notify-...` stands for all options that begin so
    assert {option for option in named - ours - metaflows - OTHERS if not option.endswith("-")} == set()
