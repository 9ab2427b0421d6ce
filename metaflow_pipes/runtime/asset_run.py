"""A run of assets, which is one of Dagster's own job: the flows that it runs, and the parameters that it must give."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import dagster as dg

from metaflow_pipes.names import FLOW_TAG, METAFLOW_TAG_PREFIX, PRIORITY_TAG
from metaflow_pipes.run_options import shown_tags
from metaflow_pipes.run_tags import tags_of_jobs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from metaflow_pipes.runtime.flow import MetaflowFlow
    from metaflow_pipes.runtime.parameters import MetaflowParameter

# What stands in an example of the run config for a value of each kind.
_EXAMPLES = {"str": "...", "file": "path/of/a/file", "int": 0, "float": 0.0, "bool": True, "json": {}}


def op_tags(job: dg.JobDefinition, *, is_start: bool) -> dict[str, str]:
    """The tags of an op in the graph of a flow's assets: those that runs of the job have, as far as ops can have them.

    Args:
        job: The flow's job.
        is_start: Whether it is the op of the start step, which has all of them, for `tags_of_run`.
    """
    # among the steps that wait for a pool, that of the run and that of the op add up
    return {tag: value for tag, value in job.tags.items() if is_start or tag == PRIORITY_TAG}


def is_alone(context: dg.OpExecutionContext) -> bool:
    """Whether a run of assets has no others than those of one flow.

    Args:
        context: The context of an op of the flow.
    """
    return len(context.job_def.graph.nodes) == 1


def tags_of_run(context: dg.OpExecutionContext, flow: MetaflowFlow, metaflow_tags: Iterable[str]) -> dict[str, str]:
    """The tags of a run of assets that a run of a job has of its job, for all flows of the run.

    Each flow's start op gives the same ones: of tags that two ops add at the same time, Dagster may lose one op's.

    Args:
        context: The context of the start op.
        flow: Its flow.
        metaflow_tags: The Metaflow tags of the flow's run.

    Raises:
        dagster.Failure: The run has the assets of two jobs of one flow, which would be one Metaflow run.
    """
    of_jobs = dict(_tags_of_jobs(context.job_def.graph))
    others = sorted(job for job, tags in of_jobs.items() if tags[FLOW_TAG] == flow.name)
    if len(others) > 1:
        raise dg.Failure(
            f"This run materializes assets of {len(others)} deployments of flow {flow.name}, the jobs "
            f"{', '.join(others)}, which would be one Metaflow run. Materialize those of each in a run of its own.",
            allow_retries=False,
        )
    shown: dict[str, list[str]] = {}
    for tags in (*of_jobs.values(), shown_tags(metaflow_tags)):
        for tag, values in tags.items():
            if tag.startswith(METAFLOW_TAG_PREFIX):
                shown.setdefault(tag, []).extend(values.split(", "))
    return {
        **tags_of_jobs({job: tags[FLOW_TAG] for job, tags in of_jobs.items()}),
        **{tag: ", ".join(dict.fromkeys(values)) for tag, values in shown.items()},
    }


def _tags_of_jobs(graph: dg.GraphDefinition) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The flows' jobs whose assets a run has, each with the tags of its runs."""
    for node in graph.nodes:
        if isinstance(node.definition, dg.GraphDefinition):
            for op in node.definition.nodes:
                if FLOW_TAG in op.tags:
                    yield node.name, op.tags


def refuse_missing_parameters(context: dg.OpExecutionContext, flow: MetaflowFlow, config: Mapping[str, Any]) -> None:
    """Let no run of assets begin that lacks a parameter; of a run of the job, Dagster checks that.

    Args:
        context: The context of the start op.
        flow: The flow.
        config: The values of the parameters.

    Raises:
        dagster.Failure: A parameter that the flow requires has no value; says how to give it.
    """
    missing = [p for p in flow.parameters if p.is_required and config.get(p.name) is None]
    if not context.has_assets_def or not missing:
        return
    names = ", ".join(parameter.name for parameter in missing)
    example: Any = {"config": {parameter.name: _example(parameter) for parameter in missing}}
    for name in reversed(context.op_handle.path):
        example = {"ops": {name: example}}
    raise dg.Failure(
        f"Flow {flow.name} requires a value of {names}, which has no default: this run gives none. In Dagster's UI, "
        "hold shift while you click Materialize: that opens the launchpad, which takes this run config, with your own "
        f"values:\n{_yaml(example)}\nOn the command line: dagster asset materialize --config-json "
        f"'{json.dumps(example)}'",
        allow_retries=False,
    )


def _example(parameter: MetaflowParameter) -> Any:
    value = _EXAMPLES[parameter.kind]
    return [value] if parameter.multiple else value


def _yaml(value: Mapping[str, Any], indent: int = 0) -> str:
    """Nested mappings as YAML, whose leaves JSON writes as well."""
    lines = []
    for key, item in value.items():
        is_nested = isinstance(item, dict) and item
        lines.append(
            f"{'  ' * indent}{key}:" + (f"\n{_yaml(item, indent + 1)}" if is_nested else f" {json.dumps(item)}")
        )
    return "\n".join(lines)
