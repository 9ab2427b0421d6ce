"""Stage 3: a `JobModel` becomes the text of a definitions file, through one template."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from metaflow_pipes.model import FromRunEnvironment

if TYPE_CHECKING:
    from metaflow_pipes.model import FlowModel, JobModel, OpModel, ParameterModel

LINE_LENGTH = 110


def render(job: JobModel, definitions_file: Path) -> str:
    """Write a job as Python source.

    Args:
        job: The job.
        definitions_file: The absolute path where the text will stand; paths near it become relative to it.

    Returns:
        The source. The same job and path give the same text.
    """
    folder, root = definitions_file.parent, job.flow.datastore_root
    return _template().render(
        job=job,
        flow=job.flow,
        options=job.options,
        used_variables={variable for op in job.ops for variable in op.upstream},
        definitions_name="".join(c if c.isprintable() else "?" for c in definitions_file.name),
        flow_file=_relative(job.flow.file, folder),
        working_directory=_near(job, job.flow.working_directory, folder),
        datastore_root=_near(job, root, folder) if job.flow.datastore == "local" else root,
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("metaflow_pipes"),
        autoescape=False,  # noqa: S701 - the output is Python; every value passes through `literal`
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(literal=literal, parameter=_parameter, decorator=_decorator, run_step=_run_step)
    return environment.get_template("definitions.py.jinja")


def _relative(path: str, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _near(job: JobModel, path: str, folder: Path) -> str:
    """A path inside the folder of the flow or of the definitions moves with them; any other is one fixed place."""
    moves = any(Path(path).is_relative_to(near) for near in (folder, Path(job.flow.file).parent))
    return _relative(path, folder) if moves else path


def _parameter(parameter: ParameterModel) -> str:
    arguments = [literal(parameter.name), repr(parameter.kind)]
    for name, value, plain in (
        ("multiple", parameter.multiple, False),
        ("separator", parameter.separator, None),
        ("required", parameter.required and not parameter.has_default, False),
        ("help", parameter.help, None),
    ):
        if value != plain:
            arguments.append(f"{name}={literal(value)}")
    if parameter.has_default:
        arguments.insert(2, f"default={literal(parameter.default)}")
    return f"MetaflowParameter({', '.join(arguments)})"


def _decorator(op: OpModel, flow: FlowModel) -> str:
    """The `@dg.op` of a step."""
    step = op.step
    arguments = {"name": _flat(op.name)}
    if step.description:
        arguments["description"] = _flat(step.description)
    if not op.upstream and flow.parameters:
        arguments["config_schema"] = "FLOW.config_schema()"
    if op.max_retries:
        delay = f", delay={step.retry_delay_seconds}" if step.retry_delay_seconds else ""
        arguments["retry_policy"] = f"dg.RetryPolicy(max_retries={op.max_retries}{delay})"
    if op.tags:
        arguments["tags"] = literal(op.tags, indent=4, prefix=5)
    return _call("@dg.op", [f"{name}={value}" for name, value in arguments.items()], indent=0)


def _run_step(op: OpModel) -> str:
    """The call of `run_step` in a step's op."""
    step = op.step
    arguments = ["context", "pipes", "FLOW", _flat(step.name)]
    if op.upstream:
        arguments.append("upstream")
    if step.environment:
        arguments.append(f"extra_env={literal(step.environment, indent=8, prefix=10)}")
    if step.user_code_retries:
        arguments.append(f"user_code_retries={step.user_code_retries}")
    if step.timeout_seconds is not None:
        arguments.append(f"timeout_seconds={step.timeout_seconds}")
    return _call("return run_step", arguments, indent=4)


def _call(function: str, arguments: list[str], indent: int) -> str:
    """A call on one line if it fits, else with an argument a line."""
    line = f"{function}({', '.join(arguments)})"
    if len(line) + indent <= LINE_LENGTH and "\n" not in line:
        return line
    inner = "".join(f"{' ' * (indent + 4)}{argument},\n" for argument in arguments)
    return f"{function}(\n{inner}{' ' * indent})"


def literal(value: Any, indent: int = 0, prefix: int = 0) -> str:
    """A value as a Python literal: on one line if it fits, else an item a line.

    Args:
        value: Strings, numbers, booleans, None, and lists, tuples and mappings of them.
        indent: The column where the literal's last line starts.
        prefix: How many characters stand before the literal on its first line, beyond `indent`.
    """
    flat = _flat(value)
    if len(flat) + indent + prefix <= LINE_LENGTH or not isinstance(value, (dict, list, tuple)) or not value:
        return flat
    inner = indent + 4
    if isinstance(value, dict):
        items = [f"{_flat(key)}: {literal(item, inner, len(_flat(key)) + 3)}" for key, item in value.items()]
        opening, closing = "{", "}"
    else:
        items = [literal(item, inner, 1) for item in value]
        opening, closing = ("[", "]") if isinstance(value, list) else ("(", ")")
    lines = "".join(f"{' ' * inner}{item},\n" for item in items)
    return f"{opening}\n{lines}{' ' * indent}{closing}"


def _flat(value: Any) -> str:
    if isinstance(value, FromRunEnvironment):
        return f"dg.EnvVar({_flat(value.variable)})"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flat(key)}: {_flat(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flat, value)) + "]"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_flat, value)) + ("," if len(value) == 1 else "") + ")"
    return repr(value)


def _string(value: str) -> str:
    """A string with double quotes, as formatters write it, unless that needs more escapes."""
    text = repr(value)
    if text.startswith("'") and '"' not in text and "\\'" not in text:
        return f'"{text[1:-1]}"'
    return text
