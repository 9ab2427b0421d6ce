"""What a step reports through Pipes, checked, and shown as Dagster metadata.

The report is the one custom message of the Pipes session. It comes from outside: a report of a wrong shape
counts as none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Rows of the artifacts table. The run page loads every event of a run, so none may be large.
MAX_ARTIFACT_ROWS = 100


@dataclass(frozen=True)
class Artifact:
    """An artifact that a task produced: its name, Python type and pickled size in bytes (None: not known)."""

    name: str
    type: str
    size: int | None


@dataclass(frozen=True)
class TaskFailure:
    """Why an attempt failed: a sentence, the user's traceback and the end of stderr (either may be empty)."""

    description: str
    traceback: str = ""
    stderr: str = ""


@dataclass(frozen=True)
class TaskReport:
    """The outcome of one attempt of a task.

    Attributes:
        pathspec: `Flow/run_id/step/task_id`.
        attempt: The attempt, from 0.
        duration_seconds: From the launch of the step's process to its end.
        artifacts: What the task produced.
        next_steps: The steps that it goes on to.
        num_splits: Into how many items it splits; None if only its control task knows, or if it doesn't.
        control_tasks: The paths of the task and of those that it has started, if it is a control task.
        failure: Why it failed, or None.
    """

    pathspec: str
    attempt: int
    duration_seconds: float = 0.0
    artifacts: tuple[Artifact, ...] = ()
    next_steps: tuple[str, ...] = ()
    num_splits: int | None = None
    control_tasks: tuple[str, ...] = ()
    failure: TaskFailure | None = None

    @property
    def task_path(self) -> str:
        """The task without its flow: `run_id/step/task_id`."""
        return self.pathspec.partition("/")[2]

    @property
    def tasks(self) -> str:
        """The task's path; of a control task, also the paths of those that it has started, with commas."""
        return ",".join(self.control_tasks) or self.task_path

    def output_metadata(self) -> dict[str, dg.MetadataValue]:
        """The metadata of the op's output."""
        metadata: dict[str, dg.MetadataValue] = {
            **self._identity(),
            "duration_seconds": dg.MetadataValue.float(round(self.duration_seconds, 3)),
            "retrieve": dg.MetadataValue.md(self._snippet()),
        }
        if self.artifacts:
            metadata["artifacts"] = self._table()
        return metadata

    def failure_metadata(self, logs_command: str) -> dict[str, dg.MetadataValue]:
        """The metadata of the failure.

        Args:
            logs_command: The shell command that shows the task's whole log.
        """
        assert self.failure is not None
        metadata = {**self._identity(), "logs": dg.MetadataValue.md(f"`{logs_command}`")}
        if self.failure.traceback:
            metadata["traceback"] = dg.MetadataValue.md(_code(self.failure.traceback))
        if self.failure.stderr:
            metadata["stderr"] = dg.MetadataValue.md(_code(self.failure.stderr))
        return metadata

    def _identity(self) -> dict[str, dg.MetadataValue]:
        return {
            "pathspec": dg.MetadataValue.text(self.pathspec),
            "task_path": dg.MetadataValue.text(self.task_path),
            "attempt": dg.MetadataValue.int(self.attempt),
        }

    def _table(self) -> dg.MetadataValue:
        shown = self.artifacts[:MAX_ARTIFACT_ROWS]
        records = [dg.TableRecord({"name": a.name, "type": a.type, "size": a.size}) for a in shown]
        if len(self.artifacts) > len(shown):
            more = f"and {len(self.artifacts) - len(shown)} more"
            records.append(dg.TableRecord({"name": more, "type": "", "size": None}))
        columns = [
            dg.TableColumn("name", "string"),
            dg.TableColumn("type", "string"),
            dg.TableColumn("size", "int", description="bytes, pickled"),
        ]
        return dg.MetadataValue.table(records, schema=dg.TableSchema(columns))

    def _snippet(self) -> str:
        value = f'["{self.artifacts[0].name}"].data' if self.artifacts else ".data"
        return _code(f'from metaflow import Task\n\nTask("{self.pathspec}"){value}', "python")


def iterations_table(reports: Sequence[TaskReport]) -> dg.MetadataValue:
    """The tasks of a loop as a table.

    Args:
        reports: The report of each iteration.
    """
    shown = reports[-MAX_ARTIFACT_ROWS:]
    records = [
        dg.TableRecord({"iteration": number, "pathspec": report.pathspec, "seconds": round(report.duration_seconds, 3)})
        for number, report in enumerate(shown, len(reports) - len(shown))
    ]
    columns = [
        dg.TableColumn("iteration", "int"),
        dg.TableColumn("pathspec", "string"),
        dg.TableColumn("seconds", "float"),
    ]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns))


def report_of(invocation: dg.PipesClientCompletedInvocation, pathspec: str, attempt: int) -> TaskReport:
    """The report of a finished process; where it is missing or misshapen, a failure that says so.

    Args:
        invocation: The finished process.
        pathspec: The task that it ran.
        attempt: The attempt that it ran.
    """
    # a task's own code may send custom messages too, before the report
    for message in reversed(invocation.get_custom_messages()):
        try:
            return _parse(message["metaflow_task"], pathspec, attempt)
        except (KeyError, TypeError, ValueError):
            continue
    what_happened = "its process ended without a report: it was killed, or could not start. See the step's stderr."
    return TaskReport(pathspec, attempt, failure=TaskFailure(f"{_subject(pathspec, attempt)} failed: {what_happened}"))


def _parse(message: Mapping[str, Any], pathspec: str, attempt: int) -> TaskReport:
    failure = message["failure"]
    # an iteration of a loop may have been done before, under another id
    folder, _, task_id = pathspec.rpartition("/")
    return TaskReport(
        pathspec=f"{folder}/{message.get('task_id', task_id)}",
        attempt=attempt,
        duration_seconds=float(message["duration_seconds"]),
        artifacts=tuple(
            Artifact(str(row["name"]), str(row["type"]), None if row["size"] is None else int(row["size"]))
            for row in message["artifacts"]
        ),
        next_steps=tuple(map(str, message["next_steps"])),
        num_splits=None if message["num_splits"] is None else int(message["num_splits"]),
        control_tasks=tuple(map(str, message["control_tasks"])),
        failure=None
        if failure is None
        else TaskFailure(
            description=f"{_subject(pathspec, attempt)} {failure['reason']}",
            traceback=str(failure["traceback"]),
            stderr=str(failure["stderr"]),
        ),
    )


def _subject(pathspec: str, attempt: int) -> str:
    flow, _, step, _ = pathspec.split("/")
    return f"Step {step} of flow {flow} (attempt {attempt})"


def _code(text: str, language: str = "") -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"
