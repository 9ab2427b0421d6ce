"""The base of the commands of `python flow.py dagster`: errors, and the flow's parameters as options."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

from metaflow._vendor import click
from metaflow.exception import MetaflowException
from metaflow.parameters import DeployTimeField

from metaflow_pipes.errors import CompileError, DeploymentError, ProductionTokenError, VerbatimError
from metaflow_pipes.names import HOME_VARIABLE, URL_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

# What stands before the name of an option whose own name a parameter of the flow has.
OPTION_PREFIX = "dagster"
# Where a command's context keeps the parameters that were given: each name with its text, or its texts.
_GIVEN = "metaflow_pipes.parameters"


class DagsterException(MetaflowException):
    """A mistake of the user, as Metaflow's command line shows it: one message, and exit code 1."""

    headline = "Dagster error"


class IncorrectProductionToken(DagsterException):
    """A deployment of another user is about to be changed without its production token."""

    headline = "Incorrect production token"


class Interrupted(MetaflowException):
    """The user has interrupted a command (Ctrl-C), which is no error of anything."""

    headline = "Interrupted"


def definitions_file_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--definitions-file`, for `deployment_of`."""
    return click.option(
        "--definitions-file",
        default=None,
        type=click.Path(),
        help="The definitions file of the deployment. [default: the deployed job of this flow]",
    )(command)


def url_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--url`, for `connect`."""
    return click.option(
        "--url",
        envvar=URL_VARIABLE,
        default=None,
        help="The address of a Dagster webserver: runs are those of its deployment. [default: "
        f"{URL_VARIABLE}; without that, the instance of {HOME_VARIABLE} on this machine]",
    )(command)


class Command(click.Command):
    """A command whose user errors are one clear message each, and exit code 1."""

    def parse_args(self, ctx: Any, args: Any) -> Any:
        """Parse the command's arguments."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            message = error.format_message().replace("  ", ". ")
            message = f"{message[:1].upper()}{message[1:]}"
            # click suggests similar options by a question
            sentence = message if message.endswith((".", "?")) else f"{message}."
            raise DagsterException(f"{sentence} `{ctx.command_path} --help` shows what it takes.") from None

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except ProductionTokenError as error:
            raise IncorrectProductionToken(str(error)) from None
        except VerbatimError as error:
            ctx.obj.echo_always(f"{DagsterException.headline}:", indent=True, bold=True)
            ctx.obj.echo_always(str(error), indent=True, no_bold=True, padding_bottom=True)
            raise SystemExit(1) from None
        except (CompileError, DeploymentError) as error:
            raise DagsterException(str(error)) from None


class ParameterCommand(Command):
    """A command that takes the flow's parameters, as Metaflow's `run` does.

    `given_parameters` tells which there are: a deployed flow has its defaults itself.

    The parameters are those of the flow that the command runs for, which is not known when a module is imported: the
    Deployer API imports it in a step of another flow, too. So Metaflow's decorator `add_custom_parameters`, which asks
    at once for the flow of its process, is not for this command; the two attributes are what the API reads of it.

    Args:
        shows_defaults: Whether `--help` shows the defaults of the parameters: those of the flow file.

    Attributes:
        has_flow_params: Tells Metaflow's API to add the parameters of the flow that is deployed.
        original_params: The command's own options, to which it goes back before it adds those of another flow.
    """

    has_flow_params = True

    def __init__(self, *args: Any, shows_defaults: bool = False, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._shows_defaults = shows_defaults
        self.original_params = list(self.params)

    def get_params(self, ctx: Any) -> list[Any]:
        """The command's own options, as they are called beside those of the parameters, and these."""
        parameters = _flow_parameters(ctx)
        help_option = self.get_help_option(ctx)
        has_help = any(parameter.name == "help" for parameter in parameters)
        return [
            *(_ParameterOption(parameter, self._shows_defaults) for parameter in parameters),
            *self._own_options(ctx).values(),
            *([help_option] if help_option and not has_help else []),
        ]

    def _own_options(self, ctx: Any) -> dict[str, Any]:
        return options_beside(self.original_params, [parameter.name for parameter in _flow_parameters(ctx)])

    def parse_args(self, ctx: Any, args: Any) -> Any:
        """Parse the command's arguments, and take the parameters out of its keyword arguments."""
        rest = super().parse_args(ctx, args)
        given = {}
        for option in self.get_params(ctx):
            if isinstance(option, _ParameterOption):
                value = ctx.params.pop(option.name)
                if value is not None and value != ():
                    given[option.parameter.name] = value
        for name, option in self._own_options(ctx).items():
            ctx.params[name] = ctx.params.pop(option.name)
        ctx.meta[_GIVEN] = given
        return rest


def options_beside(options: Iterable[Any], parameters: Iterable[str]) -> dict[str, Any]:
    """The options of a command for flows, as they are called beside the flow's parameters.

    A parameter has its name for itself, as for Metaflow's `run`, which does not know these options: an option of the
    same name is called `--dagster-<name>`.

    Args:
        options: The command's own options.
        parameters: The names of the flow's parameters.

    Returns:
        For the Python name of each option, the option as it is to be given.
    """
    taken = {_identifier(name) for name in parameters}
    beside = {}
    for option in options:
        names = {option.name, *(_identifier(text.lstrip("-")) for text in (*option.opts, *option.secondary_opts))}
        beside[option.name] = option if names.isdisjoint(taken) else _renamed(option, taken)
    return beside


def _renamed(option: Any, taken: Collection[str]) -> Any:
    """An option under a name that nothing else has."""
    prefix = OPTION_PREFIX
    while f"{prefix}_{option.name}" in taken:
        prefix = f"{prefix}-{OPTION_PREFIX}"
    renamed = copy.copy(option)
    renamed.name = f"{_identifier(prefix)}_{option.name}"
    renamed.opts = [text.replace("--", f"--{prefix}-", 1) for text in option.opts]
    renamed.secondary_opts = [text.replace("--no-", f"--no-{prefix}-", 1) for text in option.secondary_opts]
    return renamed


def _identifier(name: str) -> str:
    """A parameter's or an option's name as Python's keyword arguments have it."""
    return name.replace("-", "_").lower()


def _flow_parameters(ctx: Any) -> list[Any]:
    return [parameter for _, parameter in ctx.obj.flow._get_parameters() if not parameter.IS_CONFIG_PARAMETER]


def given_parameters(ctx: Any) -> dict[str, Any]:
    """The parameters that were given to a command: each name with its text, or with the tuple of its texts."""
    return ctx.meta[_GIVEN]


class _ParameterOption(click.Option):
    """The option for a parameter, without a default of its own."""

    def __init__(self, parameter: Any, shows_default: bool):
        self.parameter = parameter
        kwargs = parameter.kwargs
        choice = kwargs.get("type")
        super().__init__(
            (f"--{parameter.name}",),
            type=choice if isinstance(choice, click.Choice) else click.STRING,
            multiple=bool(kwargs.get("multiple")),
            is_flag=bool(kwargs.get("is_flag")),
            default=None,
            metavar=None if kwargs.get("is_flag") else str(click.types.convert_type(choice).name).upper(),
            help=" ".join(filter(None, (kwargs.get("help"), _shown_default(parameter) if shows_default else None))),
        )


def _shown_default(parameter: Any) -> str | None:
    """The default of a parameter for `--help`, as click shows those of other options; None if it has none to show."""
    default = parameter.kwargs.get("default")
    if default is None or not parameter.kwargs.get("show_default", True):
        return None
    if callable(default) or isinstance(default, DeployTimeField):
        return "[default: found when the flow is deployed]"
    if parameter.kwargs.get("multiple"):
        return f"[default: {', '.join(map(str, default))}]"
    return f"[default: {json.dumps(default) if isinstance(default, (dict, list)) else default}]"
