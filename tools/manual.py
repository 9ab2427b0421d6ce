"""The hooks by which MkDocs builds the manual: they add the page of all commands, which is made from click itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

COMMANDS_PAGE = "reference/commands.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated page to those of docs/."""
    files.append(File.generated(config, COMMANDS_PAGE, content=commands_page()))
    return files


def commands_page() -> str:
    """Every command of `python flow.py dagster`, with its arguments and options, as Markdown."""
    from metaflow_pipes.cli.group import dagster

    lines = [
        "# Commands and options",
        "",
        "This page is made from the commands themselves. `python flow.py dagster COMMAND --help` shows the same, with "
        "the parameters of the flow.",
        "",
        "Metaflow's own options stand before `dagster`, and `--name JOB` between `dagster` and the command says which "
        "job is meant: `python flow.py --branch nightly dagster --name sweep delete`.",
    ]
    for name, command in sorted(dagster.commands.items()):
        if not command.hidden:
            lines += _section(name, command)
    return "\n".join(lines) + "\n"


def _section(name: str, command: Any) -> Iterator[str]:
    """The lines about a command."""
    from metaflow._vendor import click

    takes_parameters = getattr(command, "has_flow_params", False)
    shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    arguments = [parameter for parameter in shown if isinstance(parameter, click.Argument)]
    options = [parameter for parameter in shown if isinstance(parameter, click.Option)]
    usage = [
        "python flow.py dagster",
        name,
        *(f"[{argument.human_readable_name}]" if not argument.required else argument.human_readable_name
          for argument in arguments),
        *(["[--PARAMETER VALUE]..."] if takes_parameters else []),
        *(["[OPTIONS]"] if options else []),
    ]  # fmt: skip
    yield from ("", f"## `{name}`", "", command.help or "", "", "```text", " ".join(usage), "```")
    if options:
        yield from ("", "| option | what it does |", "|---|---|")
        for option in options:
            yield f"| {_spelling(option)} | {_cell(_explanation(option))} |"


def _spelling(option: Any) -> str:
    """An option as it is typed: `--tag TEXT`, or `--wait` / `--no-wait`."""
    spellings = [*option.opts, *option.secondary_opts]
    value = "" if option.is_flag else f" {option.metavar or option.type.name.upper()}"
    return " / ".join(f"`{spelling}{value}`" for spelling in spellings)


def _explanation(option: Any) -> str:
    """The help of an option, with its default where `--help` shows that."""
    text = option.help or ""
    if option.show_default and option.default is not None:
        default = option.default
        if option.secondary_opts:
            default = (option.opts if default else option.secondary_opts)[0].lstrip("-")
        text = f"{text} [default: {default}]"
    return text


def _cell(text: str) -> str:
    """A text that stays within its cell of a table, and that Markdown takes for no link or tag."""
    for character in "|[]<>*":
        text = text.replace(character, f"\\{character}")
    return text.replace("{", "&#123;")
