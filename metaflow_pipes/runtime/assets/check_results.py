"""The results of asset checks that the code of a flow's steps reports: outputs of its ops, or events."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import dagster as dg

from metaflow_pipes.runtime.assets.checks import checks_of, finished_check
from metaflow_pipes.runtime.assets.mapped import mapped_outputs
from metaflow_pipes.runtime.assets.specs import assets_of
from metaflow_pipes.runtime.ids import item_indices

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from metaflow_pipes.runtime.flow import MetaflowFlow
    from metaflow_pipes.runtime.report import TaskReport

# The metadata of a mapped op's output by which the op that collects its step's tasks knows what they have reported.
CHECKS_METADATA = "asset checks"
# Of the tasks whose check has failed, how many are named. The run page loads every event of a run.
MAX_NAMED_TASKS = 20

# The results of one check, each with the pathspec of its task.
Results = list[tuple[str, dg.AssetCheckResult]]


def check_results(
    context: dg.OpExecutionContext, flow: MetaflowFlow, step: str, reports: Sequence[TaskReport]
) -> list[dg.AssetCheckResult]:
    """The results of the checks of a step whose task is done.

    In a run of assets that has selected a check, its result is put out; any other one becomes an event. The results of
    a task in a foreach wait for those of the other tasks (`mapped_check_results`).

    Args:
        context: The context of the op that ran the task.
        flow: The flow.
        step: The step's name.
        reports: The report of the task; of a recursive step, that of each iteration: the last one of a check counts.

    Returns:
        The results to put out.
    """
    latest = _latest(reports)
    if flow[step].materialized_by is not None:
        for name in latest.keys() - checks_of(flow).get(step, {}).keys():
            _log_results(context, flow, step, {name: latest[name]})
        return []
    last = reports[-1]
    if context.has_assets_def and last.cloned_from is not None:
        # as its asset, which is not materialized either
        latest = {name: results for name, results in latest.items() if _is_selected(context, flow, step, name)}
    finished = finished_check(flow) if step == flow.steps[-1].name else None
    put_out = _evaluated(context, flow, step, latest, is_run=last.cloned_from is None and not last.is_cached)
    if finished is not None and finished.key in context.selected_asset_check_keys:
        put_out.append(dg.AssetCheckResult(passed=True, check_name=finished.name, asset_key=finished.asset_key))
    return put_out


def carried(flow: MetaflowFlow, step: str, reports: Sequence[TaskReport]) -> dict[str, dg.MetadataValue]:
    """The metadata by which a task in a foreach hands the results of its declared checks on; none without results."""
    declared = checks_of(flow).get(step, {})
    if flow[step].materialized_by is None:
        return {}
    results = [
        {
            "name": result.check_name,
            "passed": result.passed,
            "severity": result.severity.value,
            "metadata": {name: _json(value) for name, value in result.metadata.items()},
        }
        for name, of_task in _latest(reports).items()
        for _, result in of_task
        if name in declared
    ]
    return {CHECKS_METADATA: dg.MetadataValue.json(results)} if results else {}


def mapped_check_results(context: dg.OpExecutionContext, flow: MetaflowFlow, step: str) -> list[dg.AssetCheckResult]:
    """The results of the checks of a step in a foreach, all of whose tasks are done: each passes if it does in all.

    Args:
        context: The context of the op that collects the tasks.
        flow: The flow.
        step: The step's name.

    Returns:
        As `check_results`.
    """
    if not checks_of(flow).get(step):
        return []
    results: Results = []
    outputs = list(mapped_outputs(context, flow, flow[step]))
    for metadata in outputs:
        carried_results, pathspec = metadata.get(CHECKS_METADATA), metadata.get("pathspec")
        if isinstance(carried_results, dg.JsonMetadataValue) and isinstance(pathspec, dg.TextMetadataValue):
            results += [
                (
                    pathspec.text or "",
                    dg.AssetCheckResult(
                        check_name=result["name"],
                        passed=result["passed"],
                        severity=dg.AssetCheckSeverity(result["severity"]),
                        metadata=result["metadata"],
                    ),
                )
                for result in _as_list(carried_results.data)
            ]
    # no task has run where all items of a foreach take another way at a switch
    return _evaluated(context, flow, step, _by_name(results), is_run=bool(outputs))


def log_results_of_failure(context: dg.OpExecutionContext, flow: MetaflowFlow, report: TaskReport) -> None:
    """Let the results that a failed attempt has reported become events: its op puts nothing out."""
    _log_results(context, flow, report.step, _by_name((report.pathspec, result) for result in report.checks))


def other_evaluations(results: Iterable[object], own_key: dg.AssetKey) -> list[dg.AssetCheckEvaluation]:
    """The evaluations of checks that a step's own code has reported through Pipes, of assets other than the step's.

    Args:
        results: What came through Pipes.
        own_key: The key of the step's own report.
    """
    return [
        _evaluation(result.asset_key, result.check_name, result)
        for result in results
        if isinstance(result, dg.AssetCheckResult)
        and result.check_name is not None
        and result.asset_key is not None
        and result.asset_key != own_key
    ]


def log_evaluation(context: dg.OpExecutionContext, evaluation: dg.AssetCheckEvaluation) -> None:
    """Let an evaluation become an event."""
    event: Any = evaluation  # which Dagster's annotation has forgotten
    context.log_event(event)


def _evaluated(
    context: dg.OpExecutionContext, flow: MetaflowFlow, step: str, results: Mapping[str, Results], *, is_run: bool
) -> list[dg.AssetCheckResult]:
    """The results to put out; others become events, and declared checks without a result a warning.

    Args:
        context: The context of the op.
        flow: The flow.
        step: The step's name.
        results: The results of each check.
        is_run: Whether the step has run, so that it must have reported.
    """
    put_out = []
    for name, of_tasks in results.items():
        result = _combined(of_tasks)
        # with @catch, the step has gone on: Dagster would let it fail for a blocking check
        if _is_selected(context, flow, step, name) and not _blocks(checks_of(flow)[step][name], result):
            put_out.append(result._replace(check_name=name, asset_key=assets_of(flow)[step].key))
        else:
            _log_results(context, flow, step, {name: of_tasks})
    missing = [name for name in checks_of(flow).get(step, {}) if name not in results]
    if is_run and missing:
        context.log.warning(
            f"Step {step} of flow {flow.name} has not reported {_named(missing)}, though it declares that. "
            f'Report it in the step\'s code: dagster_check.report("{missing[0]}", passed)'
        )
    return put_out


def _log_results(context: dg.OpExecutionContext, flow: MetaflowFlow, step: str, results: Mapping[str, Results]) -> None:
    """Let results become events of the event log."""
    declared, asset = checks_of(flow).get(step, {}), assets_of(flow).get(step)
    for name, of_tasks in results.items():
        result = _combined(of_tasks)
        spec = declared.get(name)
        if spec is None:
            how = "passed" if result.passed else f"failed ({result.severity.value})"
            # once, where each task of a foreach reports it
            log = context.log.info if any(item_indices(context)) else context.log.warning
            log(
                f"Step {step} of flow {flow.name} has reported the check {name}, which it does not declare: {how}. "
                + (
                    "Dagster's UI shows the checks of assets, and the translator gives the step none."
                    if asset is None
                    else f'Dagster\'s UI shows declared checks: add @dagster_check("{name}") to the step.'
                )
            )
        if asset is not None:
            log_evaluation(context, _evaluation(asset.key, name, result, context, spec))


def _evaluation(
    key: dg.AssetKey,
    name: str,
    result: dg.AssetCheckResult,
    context: dg.OpExecutionContext | None = None,
    spec: dg.AssetCheckSpec | None = None,
) -> dg.AssetCheckEvaluation:
    """The event of a result.

    Args:
        key: The asset.
        name: The check's name.
        result: The result.
        context: The context of the op, if the asset is its step's own.
        spec: The check, if it is declared.
    """
    is_partitioned = context is not None and context.has_partition_key and spec is not None and spec.partitions_def
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=name,
        passed=result.passed,
        metadata=result.metadata,
        severity=result.severity,
        description=result.description,
        blocking=None if spec is None else spec.blocking,
        partition=context.partition_key if context is not None and is_partitioned else None,
    )


def _latest(reports: Iterable[TaskReport]) -> dict[str, Results]:
    """The results of each check in the last of a step's iterations that has reported it."""
    latest: dict[str, Results] = {}
    for report in reports:
        latest.update(_by_name((report.pathspec, result) for result in report.checks))
    return latest


def _by_name(results: Iterable[tuple[str, dg.AssetCheckResult]]) -> dict[str, Results]:
    found: dict[str, Results] = {}
    for pathspec, result in results:
        found.setdefault(result.check_name or "", []).append((pathspec, result))
    return found


def _combined(results: Results) -> dg.AssetCheckResult:
    """The result of a check that several tasks have reported: it passes if it does in all, or names the others."""
    if len(results) == 1:
        return results[0][1]
    failed = [(_task_of(pathspec, result), result) for pathspec, result in results if not result.passed]
    errors = [result for _, result in failed if result.severity == dg.AssetCheckSeverity.ERROR]
    metadata: dict[str, Any] = {"tasks": len(results), "failed_tasks": len(failed)}
    description = None
    if failed:
        named = [pathspec for pathspec, _ in failed[:MAX_NAMED_TASKS]]
        more = len(failed) - len(named)
        description = f"Failed in {', '.join(named)}" + (f" and {more} more" if more else "")
        records = [
            dg.TableRecord({"task": pathspec, "severity": result.severity.value, "metadata": _shown(result)})
            for pathspec, result in failed[:MAX_NAMED_TASKS]
        ]
        metadata["failed"] = dg.MetadataValue.table(records)
    return dg.AssetCheckResult(
        passed=not failed,
        severity=dg.AssetCheckSeverity.ERROR if errors or not failed else dg.AssetCheckSeverity.WARN,
        description=description,
        metadata=metadata,
    )


def _task_of(pathspec: str, result: dg.AssetCheckResult) -> str:
    """The task of a result: one of a worker of `num_parallel` says so itself."""
    worker = result.metadata.get("pathspec")
    return worker.text or pathspec if isinstance(worker, dg.TextMetadataValue) else pathspec


def _shown(result: dg.AssetCheckResult) -> str:
    return ", ".join(f"{name} = {_json(value)}" for name, value in result.metadata.items() if name != "pathspec")


def _json(value: dg.MetadataValue) -> Any:
    """A metadata value as JSON has it; as text, if it has no such form."""
    plain = value.value
    try:
        json.dumps(plain)
    except (TypeError, ValueError):
        return str(plain)
    return plain


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_selected(context: dg.OpExecutionContext, flow: MetaflowFlow, step: str, name: str) -> bool:
    """Whether a run of assets has selected a check of a step."""
    spec = checks_of(flow).get(step, {}).get(name)
    return context.has_assets_def and spec is not None and spec.key in context.selected_asset_check_keys


def _blocks(spec: dg.AssetCheckSpec, result: dg.AssetCheckResult) -> bool:
    return spec.blocking and not result.passed and result.severity == dg.AssetCheckSeverity.ERROR


def _named(names: Sequence[str]) -> str:
    return f"its check {names[0]}" if len(names) == 1 else f"its checks {', '.join(names)}"
