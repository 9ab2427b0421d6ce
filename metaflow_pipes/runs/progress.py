"""The progress of a run on a terminal: a line per step, a bar for each foreach. Elsewhere, a line per event."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from metaflow_pipes.errors import DeploymentError
from metaflow_pipes.runs.service import RUN_EVENTS, RunStatus, left_out

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rich.console import Console

    from metaflow_pipes.runs.service import DagsterService, RunRecord, StepEvent

_POLL_SECONDS = 0.5
# How long a service that was there may be away: a webserver that restarts, a laptop that sleeps.
_PATIENCE_SECONDS = 120
_BAR_WIDTH = 24
_MARKS = {
    "running": Text("●", "blue"),
    "retrying": Text("↻", "yellow"),
    "done": Text("✓", "green"),
    "failed": Text("✗", "red"),
    "skipped": Text("-", "dim"),
}


@dataclass
class _Step:
    """The state of a step: of one task, or of all items of a foreach."""

    running: set[str] = field(default_factory=set)
    retrying: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)
    cloned: set[str] = field(default_factory=set)
    total: int | None = None
    started_at: float | None = None
    ended_at: float | None = None

    @property
    def state(self) -> str:
        for state in ("failed", "retrying", "running", "done"):
            if getattr(self, state):
                return "running" if state == "done" and len(self.done) < (self.total or 0) else state
        return "skipped"

    def move(self, key: str, state: str) -> None:
        for other in (self.running, self.retrying, self.done, self.failed, self.skipped):
            other.discard(key)
        getattr(self, state).add(key)


class Progress:
    """Follows the events of a run.

    Args:
        steps: The ops of the flow's steps, each with the op of the foreach whose items it takes all of, or None. The
            last one is that of the flow's last step.
        console: Where to print what happens; None to print nothing.
        of_assets: Of a run of the flow's assets, the flow's job; the run may have other steps, and not all of the flow.
    """

    def __init__(
        self, steps: Mapping[str, str | None], console: Console | None = None, *, of_assets: str | None = None
    ):
        self._prefix = f"{of_assets}." if of_assets else ""
        self._foreach_of = steps
        self._console = console
        self._steps: dict[str, _Step] = {}
        self._splits: dict[str, int] = {}
        self._run_error: str | None = None
        self.failures: list[tuple[str, str]] = []

    def take(self, events: Iterable[StepEvent]) -> None:
        """Take what has happened, and print it if there is a console for that."""
        for event in events:
            if event.kind in RUN_EVENTS:
                self._take_error(event)
                continue
            if not event.step_key.startswith(self._prefix):  # of another asset
                continue
            event = replace(event, step_key=event.step_key.removeprefix(self._prefix))
            name = event.step_key.partition("[")[0]
            if name not in self._foreach_of:  # an op that only regroups tasks
                continue
            if event.kind == "STEP_OUTPUT":
                self._splits[name] = self._splits.get(name, 0) + (event.num_splits or 0)
                if event.is_cloned:
                    self._steps.setdefault(name, _Step()).cloned.add(event.step_key)
                continue
            step = self._steps.setdefault(name, _Step())
            before = step.state if step.started_at is not None else None
            self._move(step, event)
            line = self._line(name, step, event, before)
            if line is not None and self._console is not None:
                self._console.print(line, highlight=False, markup=False)

    def finish(self) -> None:
        """Take the end of the run: nothing runs any more, and nothing is tried again."""
        for step in self._steps.values():
            for key in (*step.running, *step.retrying):
                step.move(key, "failed")
            if not step.failed:
                step.total = len(step.done) if step.total is None else step.total

    def outcome_of(self, run: RunRecord) -> RunRecord:
        """A run that has ended, as the flow's own: one whose last step never ran has failed, whatever Dagster says."""
        can_end_before = bool(self._prefix) or run.is_reexecution
        if run.status is not RunStatus.SUCCEEDED or can_end_before or self._steps.get(self._end, _Step()).done:
            return run
        self._fail_without_end()
        return replace(run, status=RunStatus.FAILED)

    @property
    def _end(self) -> str:
        """The op of the flow's last step."""
        return list(self._foreach_of)[-1]

    def _fail_without_end(self) -> None:
        """Take that the last step never ran; whoever watches over the run may have told it already."""
        failure = ("run", left_out(self._end))
        if failure not in self.failures:
            self.failures.append(failure)

    def _take_error(self, event: StepEvent) -> None:
        """Take what goes wrong with the run itself; the reason of its failure, if that is not a step's."""
        if event.kind == "ENGINE_EVENT":
            self._run_error = event.message or self._run_error
        elif event.message == left_out(self._end):
            self._fail_without_end()
        elif not self.failures:
            self.failures.append(("run", self._run_error or event.message or ""))

    def _move(self, step: _Step, event: StepEvent) -> None:
        if event.kind in ("STEP_START", "STEP_RESTARTED"):
            step.started_at = step.started_at or event.timestamp
            step.move(event.step_key, "running")
        elif event.kind == "STEP_UP_FOR_RETRY":
            step.move(event.step_key, "retrying")
        elif event.kind == "STEP_SUCCESS":
            step.move(event.step_key, "done")
        elif event.kind == "STEP_SKIPPED":
            step.move(event.step_key, "skipped")
        else:
            step.move(event.step_key, "failed")
            self.failures.append((event.step_key, event.message or ""))
        step.ended_at = event.timestamp
        # 0 of an unbounded foreach, which has one Dagster step
        step.total = self._splits.get(self._foreach_of[event.step_key.partition("[")[0]] or "") or None

    def _line(self, name: str, step: _Step, event: StepEvent, before: str | None) -> str | None:
        """The line to print for an event, if any: of a foreach, its begin and end and what goes wrong."""
        is_item = "[" in event.step_key
        if event.kind == "STEP_FAILURE":
            return f"{event.step_key}: failed"
        if event.kind == "STEP_UP_FOR_RETRY":
            return f"{event.step_key}: failed, and is tried again"
        if event.kind == "STEP_SKIPPED" and not is_item:
            return f"{name}: skipped"
        if event.kind == "STEP_START" and before is None:
            return f"{name}: running" + (f" ({step.total} items)" if is_item and step.total is not None else "")
        if event.kind == "STEP_SUCCESS" and step.state == "done" and (not is_item or step.total is not None):
            parts = [f"{len(step.done)} items"] if is_item else []
            return f"{name}: done ({', '.join([*parts, *_cloned(step), _seconds(step)])})"
        return None

    def __rich__(self) -> Table:
        table = Table.grid(padding=(0, 1))
        table.add_column(width=1)
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column()
        for name, step in self._steps.items():
            mark = _MARKS[step.state]
            style = "dim" if step.state == "skipped" else ""
            table.add_row(mark, Text(name, style), Text(_seconds(step), "dim"), _items(step))
        return table


def watch(
    service: DagsterService, run: RunRecord, steps: Mapping[str, str | None], console: Console
) -> tuple[RunRecord, list[tuple[str, str]]]:
    """Show a run until it has ended.

    Args:
        service: Where it runs.
        run: The run.
        steps: As for `Progress`.
        console: Where to show it.

    Returns:
        The run as it has ended, and what has failed in it: the Dagster steps, each with the reason.

    Raises:
        DeploymentError: The service can't be asked any more, for two minutes.
    """
    progress = Progress(steps, None if console.is_terminal else console)
    live = Live(progress, console=console, refresh_per_second=4) if console.is_terminal else contextlib.nullcontext()
    cursor: str | None = None
    answered_at = time.monotonic()
    with live:
        while True:
            try:
                # asked first: an event may come between the two
                current = service.run(run.dagster_run_id)
                events, cursor = service.events(run.dagster_run_id, cursor)
            except DeploymentError:
                if time.monotonic() - answered_at > _PATIENCE_SECONDS:
                    raise
            else:
                answered_at = time.monotonic()
                progress.take(events)
                if current is None:
                    raise DeploymentError(f"Run {run.metaflow_run_id} is no longer there: {service} has deleted it.")
                if current.is_over:
                    progress.finish()
                    return progress.outcome_of(current), progress.failures
            time.sleep(_POLL_SECONDS)


def _seconds(step: _Step) -> str:
    if step.started_at is None:
        return ""
    end = time.time() if step.state in ("running", "retrying") else step.ended_at or step.started_at
    return duration(max(0.0, end - step.started_at))


def duration(seconds: float) -> str:
    """A duration for people: `0.4 s`, `75 s`, `5 min`, `2.5 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 180:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3 * 3600 else f"{seconds / 3600:.1f} h"


def _cloned(step: _Step) -> list[str]:
    """The number of its tasks that were cloned, if any were."""
    if not step.cloned:
        return []
    return ["cloned" if len(step.cloned) == len(step.done) else f"{len(step.cloned)} cloned"]


def _items(step: _Step) -> Table | Text:
    count = len(step.done)
    cloned = ", ".join(_cloned(step))
    if step.total is None or len(step.done | step.failed) == step.total == 1:
        tasks = len(step.running) + len(step.retrying) + len(step.failed) + count
        return Text(f"{count} of {tasks} {cloned}".strip(), "dim") if tasks > 1 else Text(cloned, "dim")
    row = Table.grid(padding=(0, 1))
    row.add_row(ProgressBar(step.total, count, width=_BAR_WIDTH), f"{count}/{step.total}", Text(cloned, "dim"))
    return row
