"""Stage 3: a `JobModel` becomes the text of a definitions file, through one template."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from metaflow_pipes.compile.job_model import Body, Call, Reference
from metaflow_pipes.compile.job_options import FromRunEnvironment
from metaflow_pipes.compile.naming import definition_name
from metaflow_pipes.file_format import current_version
from metaflow_pipes.names import PIPES_RESOURCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from metaflow_pipes.compile.flow_model import CheckModel, PackageModel, ParameterModel
    from metaflow_pipes.compile.job_model import (
        AutomationModel,
        ExecutorModel,
        HelperModel,
        JobModel,
        OpModel,
        PartitionsModel,
    )

LINE_LENGTH = 110


def render(job: JobModel, definitions_file: Path, moves: Path | None = None) -> str:
    """Write a job as Python source.

    Args:
        job: The job.
        definitions_file: The absolute path where the text will stand; paths near it become relative to it.
        moves: The absolute path of a folder that moves as a whole, with the text and the flow; None if there is none.

    Returns:
        The source. The same job and path give the same text, by the same version of metaflow-pipes.
    """
    folder, root = definitions_file.parent, job.flow.datastore_root
    near = (folder, Path(job.flow.file).parent, *([] if moves is None else [moves]))
    return _template().render(
        job=job,
        flow=job.flow,
        compiled_by=current_version(),
        options=job.options,
        folder=folder,
        near=near,
        imports=_imports(job),
        definitions_name="".join(c if c.isprintable() else "?" for c in definitions_file.name),
        flow_file=_relative(job.flow.file, folder),
        working_directory=_near(job.flow.working_directory, folder, near),
        datastore_root=_near(root, folder, near) if job.flow.datastore == "local" else root,
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("metaflow_pipes.compile"),
        autoescape=False,  # noqa: S701 - the output is Python; every value passes through `literal`
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        flow_partitions=_flow_partitions,
        literal=literal,
        package=_package,
        executor=_executor,
        parameter=_parameter,
        step=_step,
        decorator=_decorator,
        graph=_graph,
        job=_job,
        signature=_signature,
        run_step=_run_step,
        helper=_helper,
        automation=_automation,
        partitions=_partitions,
        assets=_assets,
        statements=_statements,
    )
    return environment.get_template("definitions.py.jinja")


def _relative(path: str, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _near(path: str, folder: Path, near: Sequence[Path]) -> str:
    """A path inside the folder of the flow or of the definitions moves with them; any other is one fixed place.

    Args:
        path: The absolute path.
        folder: The folder of the definitions.
        near: The folders that move with them, these two among them.
    """
    return _relative(path, folder) if any(Path(path).is_relative_to(each) for each in near) else path


def _parameter(parameter: ParameterModel) -> str:
    arguments = [literal(parameter.name), literal(parameter.kind)]
    for name, value, plain in (
        ("multiple", parameter.multiple, False),
        ("separator", parameter.separator, None),
        ("required", parameter.required and not parameter.has_default, False),
        ("help", parameter.help, None),
        ("attribute", parameter.attribute, None),
        ("asset", parameter.asset, None),
    ):
        if value != plain:
            arguments.append(f"{name}={literal(value)}")
    if parameter.has_default:
        arguments.insert(2, f"default={literal(parameter.default)}")
    return f"MetaflowParameter({', '.join(arguments)})"


def _partitions(partitions: PartitionsModel) -> str:
    """The Dagster partitions of the job and the assets."""
    definitions = {}
    for dimension in partitions.dimensions:
        arguments = [*([literal(list(dimension.keys), indent=4)] if dimension.keys else [])]
        arguments += [f"{name}={literal(value)}" for name, value in dimension.arguments.items()]
        definitions[dimension.parameter] = arguments, f"dg.{dimension.definition}("
    if len(definitions) == 1:
        ((arguments, opening),) = definitions.values()
        return _wrapped(opening, arguments, ")", prefix=len("PARTITIONS = "))
    items = [
        f"{_flat(name)}: {_wrapped(opening, arguments, ')', indent=8, prefix=len(name) + 4)}"
        for name, (arguments, opening) in definitions.items()
    ]
    inner = "".join(f"        {item},\n" for item in items)
    return f"dg.MultiPartitionsDefinition(\n    {{\n{inner}    }}\n)"


def _flow_partitions(partitions: PartitionsModel) -> str:
    """The `partitions` of `MetaflowFlow`."""
    arguments = ["PARTITIONS", literal([dimension.parameter for dimension in partitions.dimensions])]
    for name in ("format", "range_end"):
        value = getattr(partitions, name)
        if value is not None:
            arguments.append(f"{name}={literal(value)}")
    return _wrapped("MetaflowPartitions(", arguments, ")", indent=4, prefix=len("partitions="))


def _package(package: PackageModel, job: JobModel, folder: Path, near: Sequence[Path]) -> str:
    """The `package` of `MetaflowFlow`."""
    url = _near(package.url, folder, near) if job.flow.datastore == "local" else package.url
    arguments = [_flat(url), f"sha={_flat(package.sha)}", f"metadata={_flat(package.metadata)}"]
    return _wrapped("CodePackage(", arguments, ")", indent=4, prefix=len("package="))


def _step(op: OpModel, job: JobModel, folder: Path, near: Sequence[Path]) -> str:
    """A step of `MetaflowFlow.steps`."""
    step = op.step
    is_elsewhere = step.source_file is not None and step.source_file != job.flow.file
    arguments = [literal(step.name)]
    if step.in_steps:
        arguments.append(literal([*step.in_steps, *([step.name] if step.is_recursive else [])]))
    for name, value in (
        ("op", op.name if op.name != step.name else None),
        ("collected_by", op.collected_by),
        ("items_of", op.items_of),
        ("code_version", step.code_version),
        ("file", _near(step.source_file, folder, near) if is_elsewhere and step.source_file else None),
        ("line", step.source_line),
        ("description", step.description or None),
        ("pool", op.pool),
        ("materialized_by", op.materialized_by),
        ("depends_on", list(op.depends_on) or None),
    ):
        if value is not None:
            arguments.append(f"{name}={literal(value)}")
    if step.checks:
        arguments.append(_wrapped("checks=[", [_check(check) for check in step.checks], "]", indent=12, prefix=1))
    return _wrapped("MetaflowStep(", arguments, ")", indent=8, prefix=1)


def _check(check: CheckModel) -> str:
    """A check of `MetaflowStep.checks`."""
    arguments = [literal(check.name)]
    if check.blocking:
        arguments.append("blocking=True")
    if check.description is not None:
        arguments.append(f"description={literal(check.description)}")
    return f"MetaflowCheck({', '.join(arguments)})"


def _imports(job: JobModel) -> str:
    """The line that imports what the file uses of the runtime."""
    names = {
        "CompilerVersion",
        "MetaflowFlow",
        "MetaflowPipesClient",
        "MetaflowStep",
        "RESOURCES",
        "flow_assets",
        "run_step",
        "step_outs",
        *(helper.factory for helper in job.helpers),
        *(automation.factory for automation in job.automation),
    }
    if job.executor.config:
        names.add("with_executor_config")
    if job.flow.package is not None:
        names.add("CodePackage")
    if job.flow.parameters:
        names.add("MetaflowParameter")
    if job.partitions is not None:
        names.add("MetaflowPartitions")
    elif job.translator is not None:
        names.add("partitions_def_of")
    if any(op.step.checks for op in job.ops):
        names.add("MetaflowCheck")
    factory, is_call, _ = job.executor.expression.partition("(")
    if is_call:
        names.add(factory)
    ordered = sorted(names, key=lambda name: (name.islower(), not name.isupper(), name))
    line = f"from metaflow_pipes.runtime import {', '.join(ordered)}"
    return line if len(line) <= LINE_LENGTH else _wrapped("from metaflow_pipes.runtime import (", ordered, ")")


def _decorator(op: OpModel, job: JobModel) -> str:
    """The `@dg.op` of a step."""
    step, flow = op.step, job.flow
    arguments = {"name": _flat(op.definition)}
    if step.description:
        arguments["description"] = f"FLOW[{_flat(step.name)}].description"
    outs = ["FLOW", _flat(step.name)]
    if op.switch:
        outs.append(f"ways={_flat(list(op.switch.values()))}")
    if op.emits_items:
        outs.append("emits_items=True")
    arguments["out"] = f"step_outs({', '.join(outs)})"
    # without a schema, Dagster takes anything: a parameter under the wrong op would be lost
    arguments["config_schema"] = "FLOW.config_schema()" if not op.inputs and flow.parameters else "{}"
    if op.max_retries and not step.is_recursive:
        arguments["retry_policy"] = _retry_policy(op)
    if op.tags:
        arguments["tags"] = literal(op.tags, indent=4, prefix=5)
    if op.pool is not None or job.translator is not None:
        arguments["pool"] = f"FLOW.pool({_flat(step.name)})"
    return _call("@dg.op", [f"{name}={value}" for name, value in arguments.items()], indent=0)


def _signature(op: OpModel) -> str:
    """The head of a step's op."""
    annotation = "list[str]" if op.takes_list else "str"
    inputs = [f"{name}: {annotation}" for name in op.inputs]
    arguments = ["context: dg.OpExecutionContext", f"{PIPES_RESOURCE}: MetaflowPipesClient", *inputs]
    return _wrapped(f"def {op.function}(", arguments, "):")


def _run_step(op: OpModel) -> str:
    """The statement that runs a step in its op: one call, and the shape of the op's output."""
    step = op.step
    arguments = ["context", PIPES_RESOURCE, "FLOW", _flat(step.name)]
    if op.inputs:
        arguments.append(op.inputs[0] if len(op.inputs) == 1 else _wrapped("[", op.inputs, "]", indent=8))
    if step.environment:
        arguments.append(f"extra_env={literal(step.environment, indent=8, prefix=10)}")
    if step.user_code_retries:
        arguments.append(f"user_code_retries={step.user_code_retries}")
    if step.timeout_seconds is not None:
        arguments.append(f"timeout_seconds={step.timeout_seconds}")
    if step.is_recursive and op.max_retries:
        arguments.append(f"iteration_retries={_retry_policy(op)}")
    if op.switch:
        return _choice(arguments, op.switch)
    if op.emits_items:
        shape = "items"
    elif op.is_routed:
        shape = "way"
    else:
        shape = "split" if step.kind in ("foreach", "parallel") else "path"
    return _wrapped("yield from run_step(", arguments, f").as_{shape}()", indent=4)


def _choice(arguments: list[str], outputs: Mapping[str, str]) -> str:
    """The statement that runs the step of a switch, broken where a formatter would break it."""
    line = _wrapped("yield from run_step(", arguments, f").as_choice({_flat(outputs)})", indent=4)
    call = f"yield from run_step({', '.join(arguments)}).as_choice("
    if "\n" not in line or "\n" in call or len(call) + 4 > LINE_LENGTH:
        return line
    return f"{call}\n        {literal(outputs, indent=8)}\n    )"


def _retry_policy(op: OpModel) -> str:
    delay = f", delay={op.step.retry_delay_seconds}" if op.step.retry_delay_seconds else ""
    return f"dg.RetryPolicy(max_retries={op.max_retries}{delay})"


def _graph(job: JobModel) -> str:
    """The `@dg.graph` of the job."""
    # Dagster wants another name than that of the graph that is made of it for the assets
    arguments = [f"name={_flat(f'{job.name}__job')}"]
    if job.flow.description:
        arguments.append(f"description={_flat(job.flow.description)}")
    return _call("@dg.graph", arguments, indent=0)


def _executor(executor: ExecutorModel) -> str:
    """The job's executor, with the defaults of its config."""
    if not executor.config:
        return executor.expression
    arguments = [executor.expression, literal(dict(executor.config), indent=4)]
    return _wrapped("with_executor_config(", arguments, ")", prefix=len("EXECUTOR = "))


def _job(job: JobModel) -> str:
    """The job of the graph."""
    tags = f"tags={literal(job.tags, indent=4, prefix=5)}"
    name = f"name={_flat(job.name)}"
    arguments = [name, tags, "resource_defs=RESOURCES", "executor_def=EXECUTOR"]
    if job.partitions is not None:
        arguments.append("partitions_def=PARTITIONS")
    elif job.translator is not None:
        arguments.append("partitions_def=partitions_def_of(FLOW)")
    return _call(f"{job.function} = JOB = graph.to_job", arguments, indent=0)


def _helper(helper: HelperModel, job: JobModel) -> str:
    """The definition of a helper op."""
    arguments = [_flat(definition_name(job.name, helper.name))]
    if helper.outputs:
        arguments.append(literal(helper.outputs, indent=4))
    if helper.depth is not None:
        arguments.append(f"depth={helper.depth}")
    arguments.append("flow=FLOW")
    if helper.step is not None:
        arguments.append(f"step={_flat(helper.step)}")
    return _call(f"{helper.name} = {helper.factory}", arguments, indent=0)


def _automation(automation: AutomationModel) -> str:
    """A schedule or sensor within the list of its kind."""
    arguments = [
        f"{name}={literal(value, indent=12, prefix=len(name) + 1)}" for name, value in automation.arguments.items()
    ]
    return _wrapped(f"{automation.factory}(", ["FLOW", "JOB", *arguments], ")", indent=8, prefix=1)


def _assets(job: JobModel) -> str:
    """The flow's assets, the first of which depends on the events that start the flow."""
    events = [event.name for trigger in job.flow.triggers for event in trigger.events]
    arguments = ["FLOW", "JOB", *([f"events={literal(events, indent=4, prefix=7)}"] if events else [])]
    return _wrapped("flow_assets(", arguments, ")", prefix=9)


def _statement(statement: Call | Body, used: frozenset[str]) -> str:
    """A statement of the job's body, at its indentation."""
    if isinstance(statement, Call):
        return f"    {_application(statement, used, indent=4)}"
    returned = [_reference(reference) for reference, _ in statement.results]
    variables = [variable for _, variable in statement.results]
    inner = frozenset({reference.variable for reference, _ in statement.results} | _used(statement.calls))
    mapped = f"{_reference(statement.source)}.map"
    if len(statement.calls) == 1 and len(returned) == 1:
        return f"    {variables[0]} = {mapped}({_node(statement.calls[0])})"
    mapped = f"{mapped}({statement.function})"
    return "\n".join(
        [
            "",
            f"    def {statement.function}({statement.item}):",
            *(f"        {_application(call, inner, indent=8)}" for call in statement.calls),
            f"        return {_several(returned, indent=8, prefix=7)}",
            "",
            f"    {_several(variables, indent=4, prefix=len(mapped) + 3)} = {mapped}",
        ]
    )


def _several(items: list[str], indent: int, prefix: int) -> str:
    """One item, or several as a tuple: bare if it fits."""
    flat = ", ".join(items)
    if len(flat) + indent + prefix <= LINE_LENGTH:
        return flat
    return _wrapped("(", items, ")", indent, prefix)


def _application(call: Call, used: frozenset[str], indent: int) -> str:
    assignment = f"{call.variable} = " if call.variable in used else ""
    opening = f"{assignment}{_node(call)}("
    return _wrapped(opening, [_argument(argument, indent + 4) for argument in call.arguments], ")", indent)


def _node(call: Call) -> str:
    """An op as a node of the job, under the name that step keys and the run config have."""
    return f"{call.function}.alias({_flat(call.op)})"


def _argument(argument: Reference | tuple[Reference, ...], indent: int) -> str:
    if isinstance(argument, Reference):
        return _reference(argument)
    if len(argument) == 1 and argument[0].is_collected:
        return _reference(argument[0])
    return _wrapped("[", [_reference(reference) for reference in argument], "]", indent)


def _reference(reference: Reference) -> str:
    output = f".{reference.output}" if reference.output is not None else ""
    return f"{reference.variable}{output}{'.collect()' if reference.is_collected else ''}"


def _used(calls: Iterable[Call]) -> set[str]:
    """The variables that calls take."""
    arguments = [argument for call in calls for argument in call.arguments]
    return {
        reference.variable
        for argument in arguments
        for reference in ((argument,) if isinstance(argument, Reference) else argument)
    }


def _statements(job: JobModel) -> list[str]:
    calls = [statement for statement in job.statements if isinstance(statement, Call)]
    sources = {statement.source.variable for statement in job.statements if isinstance(statement, Body)}
    used = frozenset(_used(calls) | sources)
    return [_statement(statement, used) for statement in job.statements]


def _call(function: str, arguments: list[str], indent: int) -> str:
    """A call on one line if it fits, else with an argument a line."""
    return _wrapped(f"{function}(", arguments, ")", indent)


def _wrapped(opening: str, items: Sequence[str], closing: str, indent: int = 0, prefix: int = 0) -> str:
    """Items between brackets: on one line if they fit, else one a line.

    Args:
        opening: What stands before the items.
        items: The items.
        closing: What stands behind them.
        indent: The column where the last line starts.
        prefix: How many more characters stand on the first line.
    """
    line = f"{opening}{', '.join(items)}{closing}"
    if len(line) + indent + prefix <= LINE_LENGTH and "\n" not in line:
        return line
    inner = "".join(f"{' ' * (indent + 4)}{item},\n" for item in items)
    return f"{opening}\n{inner}{' ' * indent}{closing}"


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
    if text.startswith("'") and value.count('"') <= value.count("'"):
        inner = text[1:-1].replace("\\'", "'").replace('"', '\\"')
        return f'"{inner}"'
    return text
