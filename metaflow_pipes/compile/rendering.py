"""Stage 3: a `JobModel` becomes the text of a definitions file, through one template."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from metaflow_pipes.compile.graph_body import statements_of
from metaflow_pipes.compile.naming import definition_name
from metaflow_pipes.compile.source import LINE_LENGTH, bracketed, literal, one_line
from metaflow_pipes.file_format import current_version
from metaflow_pipes.names import PIPES_RESOURCE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from metaflow_pipes.compile.flow_model import CheckModel, PackageModel, ParameterModel
    from metaflow_pipes.compile.job_model import (
        AutomationModel,
        ExecutorModel,
        HelperModel,
        JobModel,
        OpModel,
        PartitionsModel,
    )


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
    return template().render(
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


@functools.cache
def template() -> jinja2.Template:
    """The template of all definitions files, compiled once in a process."""
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
        statements=statements_of,
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
        ("is_text", parameter.is_text, True),
        ("encoding", parameter.encoding, "utf-8"),
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
        return bracketed(opening, arguments, ")", prefix=len("PARTITIONS = "))
    items = [
        f"{one_line(name)}: {bracketed(opening, arguments, ')', indent=8, prefix=len(name) + 4)}"
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
    return bracketed("MetaflowPartitions(", arguments, ")", indent=4, prefix=len("partitions="))


def _package(package: PackageModel, job: JobModel, folder: Path, near: Sequence[Path]) -> str:
    """The `package` of `MetaflowFlow`."""
    url = _near(package.url, folder, near) if job.flow.datastore == "local" else package.url
    arguments = [one_line(url), f"sha={one_line(package.sha)}", f"metadata={one_line(package.metadata)}"]
    return bracketed("CodePackage(", arguments, ")", indent=4, prefix=len("package="))


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
        arguments.append(bracketed("checks=[", [_check(check) for check in step.checks], "]", indent=12, prefix=1))
    return bracketed("MetaflowStep(", arguments, ")", indent=8, prefix=1)


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
    return line if len(line) <= LINE_LENGTH else bracketed("from metaflow_pipes.runtime import (", ordered, ")")


def _decorator(op: OpModel, job: JobModel) -> str:
    """The `@dg.op` of a step."""
    step, flow = op.step, job.flow
    arguments = {"name": one_line(op.definition)}
    if step.description:
        arguments["description"] = f"FLOW[{one_line(step.name)}].description"
    outs = ["FLOW", one_line(step.name)]
    if op.switch:
        outs.append(f"ways={one_line(list(op.switch.values()))}")
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
        arguments["pool"] = f"FLOW.pool({one_line(step.name)})"
    return _call("@dg.op", [f"{name}={value}" for name, value in arguments.items()])


def _signature(op: OpModel) -> str:
    """The head of a step's op."""
    annotation = "list[str]" if op.takes_list else "str"
    inputs = [f"{name}: {annotation}" for name in op.inputs]
    arguments = ["context: dg.OpExecutionContext", f"{PIPES_RESOURCE}: MetaflowPipesClient", *inputs]
    return bracketed(f"def {op.function}(", arguments, "):")


def _run_step(op: OpModel) -> str:
    """The statement that runs a step in its op: one call, and the shape of the op's output."""
    step = op.step
    arguments = ["context", PIPES_RESOURCE, "FLOW", one_line(step.name)]
    if op.inputs:
        arguments.append(op.inputs[0] if len(op.inputs) == 1 else bracketed("[", op.inputs, "]", indent=8))
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
    return bracketed("yield from run_step(", arguments, f").as_{shape}()", indent=4)


def _choice(arguments: list[str], outputs: Mapping[str, str]) -> str:
    """The statement that runs the step of a switch, broken where a formatter would break it."""
    line = bracketed("yield from run_step(", arguments, f").as_choice({one_line(outputs)})", indent=4)
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
    arguments = [f"name={one_line(f'{job.name}__job')}"]
    if job.flow.description:
        arguments.append(f"description={one_line(job.flow.description)}")
    return _call("@dg.graph", arguments)


def _executor(executor: ExecutorModel) -> str:
    """The job's executor, with the defaults of its config."""
    if not executor.config:
        return executor.expression
    arguments = [executor.expression, literal(dict(executor.config), indent=4)]
    return bracketed("with_executor_config(", arguments, ")", prefix=len("EXECUTOR = "))


def _job(job: JobModel) -> str:
    """The job of the graph."""
    tags = f"tags={literal(job.tags, indent=4, prefix=5)}"
    name = f"name={one_line(job.name)}"
    arguments = [name, tags, "resource_defs=RESOURCES", "executor_def=EXECUTOR"]
    if job.partitions is not None:
        arguments.append("partitions_def=PARTITIONS")
    elif job.translator is not None:
        arguments.append("partitions_def=partitions_def_of(FLOW)")
    return _call(f"{job.function} = JOB = graph.to_job", arguments)


def _helper(helper: HelperModel, job: JobModel) -> str:
    """The definition of a helper op."""
    arguments = [one_line(definition_name(job.name, helper.name))]
    if helper.outputs:
        arguments.append(literal(helper.outputs, indent=4))
    if helper.depth is not None:
        arguments.append(f"depth={helper.depth}")
    arguments.append("flow=FLOW")
    if helper.step is not None:
        arguments.append(f"step={one_line(helper.step)}")
    return _call(f"{helper.name} = {helper.factory}", arguments)


def _automation(automation: AutomationModel) -> str:
    """A schedule or sensor within the list of its kind."""
    arguments = [
        f"{name}={literal(value, indent=12, prefix=len(name) + 1)}" for name, value in automation.arguments.items()
    ]
    return bracketed(f"{automation.factory}(", ["FLOW", "JOB", *arguments], ")", indent=8, prefix=1)


def _assets(job: JobModel) -> str:
    """The flow's assets, the first of which depends on the events that start the flow."""
    events = [event.name for trigger in job.flow.triggers for event in trigger.events]
    arguments = ["FLOW", "JOB", *([f"events={literal(events, indent=4, prefix=7)}"] if events else [])]
    return bracketed("flow_assets(", arguments, ")", prefix=9)


def _call(function: str, arguments: list[str]) -> str:
    """A call on one line if it fits, else with an argument a line."""
    return bracketed(f"{function}(", arguments, ")")
