"""The report of a task, as it comes through Pipes: checked, and shown as Dagster metadata.

The report is the one custom message of the Pipes session. It comes from outside: a report of a wrong shape
counts as none.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import dagster as dg
import tblib

from metaflow_pipes.names import SPLITS_METADATA
from metaflow_pipes.runtime.places import items_of, split_of, way_of
from step_wrapper import wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from types import TracebackType

    AnyOutput = dg.Output[str] | dg.DynamicOutput[str] | dg.AssetCheckResult

# Rows of a table. The run page loads every event of a run, so none may be large.
MAX_ROWS = 50
# Of a process that can't start: the interpreter's own error has a few lines behind it.
LAST_LINES = 6


@dataclass(frozen=True)
class TaskFailure:
    """The failure of an attempt, as the op tells it.

    Attributes:
        description: A sentence.
        traceback: The user's traceback, or the empty string.
        stderr: The end of stderr, or the empty string.
        exception: What the step's code raised, with its traceback, or None. It stands for the exception in the
            step's process: of a class of the same name, which is not that class.
        allow_retries: Whether another attempt can end otherwise.
    """

    description: str
    traceback: str = ""
    stderr: str = ""
    exception: Exception | None = None
    allow_retries: bool = True


@dataclass(frozen=True)
class TaskReport:
    """The outcome of one attempt of a task.

    Attributes:
        pathspec: `Flow/run_id/step/task_id`.
        attempt: The attempt, from 0.
        duration_seconds: From the launch of the step's process to its end.
        metadata: What the task made, as its process reported it.
        data_version: A version that tells whether it made the same as another task, or None.
        is_cached: Whether it was done before, and did not run.
        cloned_from: The pathspec of the task of another run that it is a clone of, so that it did not run; or None.
        next_steps: The steps that it goes on to.
        num_splits: Into how many items it splits; None if only its control task knows, or if it doesn't.
        control_tasks: The paths of the task and of those that it has started, if it is a control task.
        failure: Why it failed, or None.
        checks: The results of the checks of its own asset.
        asset_outputs: What its op puts out for the step's asset, before what other ops take.
        selected_outputs: The outputs of its op that something selected depends on; None is all of them.
    """

    pathspec: str
    attempt: int
    duration_seconds: float = 0.0
    metadata: Mapping[str, dg.MetadataValue] = field(default_factory=dict)
    data_version: str | None = None
    is_cached: bool = False
    cloned_from: str | None = None
    next_steps: tuple[str, ...] = ()
    num_splits: int | None = None
    control_tasks: tuple[str, ...] = ()
    failure: TaskFailure | None = None
    checks: tuple[dg.AssetCheckResult, ...] = ()
    asset_outputs: tuple[dg.Output[str] | dg.AssetCheckResult, ...] = ()
    selected_outputs: AbstractSet[str] | None = None

    @property
    def task_path(self) -> str:
        """The task without its flow: `run_id/step/task_id`."""
        return self.pathspec.partition("/")[2]

    @property
    def step(self) -> str:
        """The step's name."""
        return self.pathspec.split("/")[2]

    @property
    def path(self) -> str:
        """The task's path; of a control task, also the paths of those that it has started, with commas."""
        return ",".join(self.control_tasks) or self.task_path

    @property
    def split(self) -> str:
        """The task's path and the number of its items, where it ends in a foreach or in `num_parallel`."""
        return split_of(self.task_path, self.num_splits)

    @property
    def way(self) -> str:
        """The task's path and the step that it goes on to, for a `route` helper: the end of a switch in a foreach."""
        return way_of(self.task_path, self.next_steps[0])

    def as_path(self) -> Iterator[AnyOutput]:
        """The outputs of an op whose task goes on to one step, or to none: `path`."""
        return self._outputs([dg.Output(self.path, metadata=self.output_metadata())])

    def as_split(self) -> Iterator[AnyOutput]:
        """The outputs of an op whose task splits within another foreach, or by `num_parallel`: `split`."""
        return self._outputs([dg.Output(self.split, metadata=self.output_metadata())])

    def as_way(self) -> Iterator[AnyOutput]:
        """The outputs of an op whose task ends a switch within a foreach: `way`."""
        return self._outputs([dg.Output(self.way, metadata=self.output_metadata())])

    def as_items(self) -> Iterator[AnyOutput]:
        """The outputs of an op whose task splits outside of every foreach: `items`."""
        return self._outputs(self.items())

    def as_choice(self, outputs: Mapping[str, str]) -> Iterator[AnyOutput]:
        """The outputs of an op whose task ends a switch outside of every foreach: `choice`.

        Args:
            outputs: For each step that it can go on to, the name of the output.
        """
        return self._outputs([self.choice(outputs)])

    def _outputs(self, values: Iterable[dg.Output[str] | dg.DynamicOutput[str]]) -> Iterator[AnyOutput]:
        """The outputs of the task's op: Dagster takes none that nothing selected depends on."""
        yield from self.asset_outputs
        for output in values:
            if self.selected_outputs is None or output.output_name in self.selected_outputs:
                yield output

    def items(self) -> Iterator[dg.DynamicOutput[str]]:
        """The items of the task's foreach, under their indices as mapping keys. The first one has its metadata."""
        metadata = self.output_metadata()
        for item, key in items_of(self.split):
            yield dg.DynamicOutput(item, mapping_key=key, metadata=metadata)
            metadata = {}

    def choice(self, outputs: Mapping[str, str]) -> dg.Output[str]:
        """The task's path as the output of the step that its switch has chosen.

        Args:
            outputs: For each step that it can go on to, the name of the output.
        """
        return dg.Output(self.task_path, outputs[self.next_steps[0]], metadata=self.output_metadata())

    def output_metadata(self) -> dict[str, dg.MetadataValue]:
        """The metadata of the op's output."""
        known = self._identity()
        if self.cloned_from is None:
            known = {"duration_seconds": dg.MetadataValue.float(round(self.duration_seconds, 3)), **known}
        if self.num_splits is not None:
            known[SPLITS_METADATA] = dg.MetadataValue.int(self.num_splits)
        return {**self.metadata, **{name: value for name, value in known.items() if name not in self.metadata}}

    def failure_metadata(self, logs_command: str) -> dict[str, dg.MetadataValue]:
        """The metadata of the failure.

        Args:
            logs_command: The shell command that shows the task's whole log.
        """
        assert self.failure is not None
        metadata = {}
        if self.failure.traceback:
            metadata["traceback"] = dg.MetadataValue.md(_code(self.failure.traceback))
        if self.failure.stderr:
            metadata["stderr"] = dg.MetadataValue.md(_code(self.failure.stderr))
        return {**metadata, "logs": dg.MetadataValue.md(f"`{logs_command}`"), **self.metadata, **self._identity()}

    def _identity(self) -> dict[str, dg.MetadataValue]:
        return {
            "pathspec": dg.MetadataValue.text(self.pathspec),
            "task_path": dg.MetadataValue.text(self.task_path),
            "attempt": dg.MetadataValue.int(self.attempt),
        }


def iterations_table(reports: Sequence[TaskReport]) -> dg.MetadataValue:
    """The tasks of a loop as a table.

    Args:
        reports: The report of each iteration.
    """
    shown = reports[-MAX_ROWS:]
    records = [
        dg.TableRecord(
            {
                "iteration": number,
                "pathspec": report.pathspec,
                "seconds": round(report.duration_seconds, 3) if report.cloned_from is None else None,
            }
        )
        for number, report in enumerate(shown, len(reports) - len(shown))
    ]
    columns = [
        dg.TableColumn("iteration", "int"),
        dg.TableColumn("pathspec", "string"),
        dg.TableColumn("seconds", "float"),
    ]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns))


def report_of(
    invocation: dg.PipesClientCompletedInvocation, pathspec: str, attempt: int, asset_key: dg.AssetKey
) -> TaskReport | None:
    """The report of a finished process, or None if it is missing or misshapen.

    Args:
        invocation: The finished process.
        pathspec: The task that it ran.
        attempt: The attempt that it ran.
        asset_key: The key that it reports its metadata for.
    """
    results = invocation.get_results(implicit_materializations=False)
    checks = tuple(
        # Pipes adds the metadata of the invocation, which say how the process has ended
        r.with_metadata({name: value for name, value in r.metadata.items() if name not in invocation.metadata})
        for r in results
        if isinstance(r, dg.AssetCheckResult) and r.asset_key == asset_key
    )
    made = next((r for r in results if isinstance(r, dg.MaterializeResult) and r.asset_key == asset_key), None)
    # a task's own code may send custom messages too, before the report
    for message in reversed(invocation.get_custom_messages()):
        try:
            return replace(_parse(wire.report_in(message), pathspec, attempt, made), checks=checks)
        except (KeyError, TypeError, ValueError):
            continue
        except wire.OtherVersionError as error:
            description = f"{_subject(pathspec, attempt)} was not understood: {error}"
            return TaskReport(pathspec, attempt, failure=TaskFailure(description, allow_retries=False))
    return None


def no_report(pathspec: str, attempt: int, exit_code: int, stderr: str) -> TaskReport:
    """A failure in place of the report of a process that has left none.

    Args:
        pathspec: The task that it ran.
        attempt: The attempt that it ran.
        exit_code: Its exit code, or the signal that killed it as a negative number.
        stderr: The end of its stderr.
    """
    how = f"was killed by signal {-exit_code}" if exit_code < 0 else f"could not start: exit code {exit_code}"
    last_lines = "\n".join(stderr.splitlines()[-LAST_LINES:])
    said = f", with the last words\n{last_lines}" if last_lines else ", with nothing on its stderr"
    description = f"{_subject(pathspec, attempt)} failed: its process {how}{said}"
    return TaskReport(pathspec, attempt, failure=TaskFailure(description, stderr=stderr))


def _parse(message: wire.Report, pathspec: str, attempt: int, made: dg.MaterializeResult | None) -> TaskReport:
    failure = message["failure"]
    # an iteration of a loop may have been done before, under another id
    folder = pathspec.rpartition("/")[0]
    return TaskReport(
        pathspec=f"{folder}/{message['task_id']}",
        attempt=attempt,
        duration_seconds=float(message["duration_seconds"]),
        metadata={} if made is None else _typed(made.metadata or {}),
        data_version=None if made is None or made.data_version is None else made.data_version.value,
        is_cached=bool(message["is_cached"]),
        cloned_from=None if message["cloned_from"] is None else str(message["cloned_from"]),
        next_steps=tuple(map(str, message["next_steps"])),
        num_splits=None if message["num_splits"] is None else int(message["num_splits"]),
        control_tasks=tuple(map(str, message["control_tasks"])),
        failure=None
        if failure is None
        else TaskFailure(
            description=f"{_subject(pathspec, attempt)} {failure['reason']}",
            traceback=str(failure["traceback"]),
            stderr=str(failure["stderr"]),
            exception=_exception(failure["exception"]),
            allow_retries=bool(failure["allow_retries"]),
        ),
    )


def _typed(metadata: Mapping[str, Any]) -> dict[str, dg.MetadataValue]:
    """Metadata as Pipes has read it: of no other values than these."""
    return {name: value for name, value in metadata.items() if isinstance(value, dg.MetadataValue)}


def _exception(serialized: wire.SerializedException | None) -> Exception | None:
    """An exception of the step's process, as one that can be raised here, with the same traceback and causes."""
    if serialized is None:
        return None
    of_class = type(str(serialized["type"]), (Exception,), {"__module__": str(serialized["module"])})
    exception = of_class(str(serialized["message"]))
    exception.__context__ = _exception(serialized["context"])
    exception.__cause__ = _exception(serialized["cause"])
    exception.__suppress_context__ = exception.__cause__ is not None
    return exception.with_traceback(_traceback(serialized["frames"]))


def _traceback(frames: Sequence[Sequence[Any]]) -> TracebackType | None:
    inner: dict[str, Any] | None = None
    for file, line, function in reversed(frames):
        code = {"co_filename": str(file), "co_name": str(function)}
        frame = {"f_globals": {"__file__": str(file), "__name__": ""}, "f_code": code, "f_lineno": int(line)}
        inner = {"tb_frame": frame, "tb_lineno": int(line), "tb_next": inner}
    return None if inner is None else tblib.Traceback.from_dict(inner).as_traceback()


def _subject(pathspec: str, attempt: int) -> str:
    flow, _, step, _ = pathspec.split("/")
    return f"Step {step} of flow {flow} (attempt {attempt})"


def _code(text: str, language: str = "") -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"
