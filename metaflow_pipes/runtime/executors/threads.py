"""The threads executor: ops run in threads of the run's process, since they only wait.

It uses Dagster's private modules: an executor that runs steps side by side needs what Dagster's own
are made of. `tests/unit/test_executor_internals.py` pins what that is.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import queue
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.events import EngineEventData
from dagster._core.execution.api import ExecuteRunWithPlanIterable
from dagster._core.execution.context_creation_job import PlanExecutionContextManager
from dagster._core.execution.plan.execute_plan import _trigger_hook, dagster_event_sequence_for_step
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.execution.retries import RetryMode

from metaflow_pipes.names import WARM_STARTS
from metaflow_pipes.runtime.client.client import TERMINATION_TIMEOUT_SECONDS
from metaflow_pipes.runtime.cloners import Cloners
from metaflow_pipes.runtime.executors.compute_logs import compute_logs, described
from metaflow_pipes.runtime.executors.event_log import event_log_kept_open
from metaflow_pipes.runtime.executors.limits import available_cpus, config_schema
from metaflow_pipes.runtime.executors.reexecution import with_steps_left_out
from metaflow_pipes.runtime.executors.resources import resources_scoped_once
from metaflow_pipes.runtime.heartbeats import Heartbeats
from metaflow_pipes.runtime.step_thread import StepThread, running
from metaflow_pipes.runtime.warm import WARM_VARIABLE, WarmProcesses

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dagster._core.execution.context.system import (
        PlanExecutionContext,
        PlanOrchestrationContext,
        StepExecutionContext,
    )
    from dagster._core.execution.plan.plan import ExecutionPlan
    from dagster._core.execution.plan.step import ExecutionStep

    from metaflow_pipes.names import WarmStart
    from metaflow_pipes.runtime.flow import MetaflowFlow
    from metaflow_pipes.runtime.step_process import StepLaunch, StepProcess

# How often an executor that waits for its steps looks for an interrupt.
POLL_SECONDS = 0.2
# How long a thread of the run's process may compute before another takes its turn. By Python's default, ten times as
# long, a thread that hears from its step waits while others write their events.
SWITCH_SECONDS = 0.0005
# How long a step may still report when its process has been killed. No thread of Python can be killed, though: one that
# runs a user's code in this process, and goes on, is left to itself.
LEAVE_SECONDS = 2


@functools.cache
def threads(max_concurrent: int | None = None, warm: WarmStart = "metaflow") -> dg.ExecutorDefinition:
    """An executor that runs ops in threads of the run's process.

    An op of Metaflow only waits for its step's process, and needs no process of its own for that. What a step's process
    prints goes to the compute log of its Dagster step.

    The same arguments give the same executor: `dg.Definitions.merge` takes several definitions only if they have one.

    Args:
        max_concurrent: How many ops run at the same time; None is the number of CPUs (`available_cpus`). The run
            config `execution: {config: {max_concurrent: 4}}` overrides it. An op whose process has ended, and that has
            only its events left to write, no longer counts.
        warm: How the processes of steps are started: `metaflow` forks them from one that has imported Metaflow, `flow`
            from one that has imported what the flow file imports, too, and `off` starts each by itself. The environment
            variable `METAFLOW_PIPES_WARM` overrides it, and the run config `execution: {config: {warm: flow}}` that.
    """
    warm_field = dg.Field(
        dg.Noneable(dg.Enum("WarmStart", [dg.EnumValue(start) for start in WARM_STARTS])),
        default_value=None,
        description=f"How the processes of steps are started: {', '.join(WARM_STARTS)}.",
    )

    @dg.executor(name="threads", config_schema={**config_schema(max_concurrent), "warm": warm_field})
    def threads_executor(context: dg.InitExecutorContext) -> ThreadsExecutor:
        config: Any = context.executor_config
        limit = config["max_concurrent"] or available_cpus()
        if limit < 1:
            raise dg.DagsterInvalidConfigError(
                f"max_concurrent of the threads executor is {limit}, but at least one step must be able to run.",
                [],
                config,
            )
        return ThreadsExecutor(
            retries=RetryMode.from_config(config["retries"]) or RetryMode.ENABLED,
            max_concurrent=limit,
            tag_concurrency_limits=config.get("tag_concurrency_limits"),
            warm=_warm_start(config["warm"] or os.environ.get(WARM_VARIABLE) or warm),
        )

    return threads_executor


class ThreadsExecutor(dg.Executor):
    """Runs steps in threads of this process.

    Args:
        retries: The retry mode: whether ops that ask for a retry get one.
        max_concurrent: How many steps run at the same time.
        tag_concurrency_limits: How many of those with certain tags, as Dagster's multiprocess executor takes it.
        warm: How the processes of steps are started.
    """

    def __init__(
        self,
        retries: RetryMode,
        max_concurrent: int,
        tag_concurrency_limits: list[dict[str, Any]] | None = None,
        warm: WarmStart = "off",
    ):
        self._warm: WarmStart = warm
        self._retries = retries
        self._max_concurrent = max_concurrent
        self._tag_concurrency_limits = tag_concurrency_limits

    @property
    def retries(self) -> RetryMode:
        """The retry mode: whether ops that ask for a retry get one."""
        return self._retries

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[dg.DagsterEvent]:
        """Execute a plan, as Dagster asks an executor to."""
        plan_context, execution_plan, added = with_steps_left_out(plan_context, execution_plan)
        if added is not None:
            yield added
        where = EngineEventData.in_process(os.getpid(), execution_plan.step_keys_to_execute)
        yield dg.DagsterEvent.engine_event(plan_context, f"Executing steps in threads (pid: {os.getpid()})", where)
        with event_log_kept_open(plan_context.instance), _short_turns():
            yield from ExecuteRunWithPlanIterable(
                execution_plan=execution_plan,
                iterator=self._run_steps,
                execution_context_manager=PlanExecutionContextManager(
                    job=plan_context.job,
                    retry_mode=plan_context.retry_mode,
                    execution_plan=execution_plan,
                    run_config=plan_context.run_config,
                    dagster_run=plan_context.dagster_run,
                    instance=plan_context.instance,
                    raise_on_error=plan_context.raise_on_error,
                    output_capture=plan_context.output_capture,
                    step_dependency_config=self.step_dependency_config,
                    scoped_resources_builder_cm=resources_scoped_once,
                ),
            )
        yield dg.DagsterEvent.engine_event(plan_context, f"Finished steps in threads (pid: {os.getpid()})", where)

    def _run_steps(self, job_context: PlanExecutionContext, execution_plan: ExecutionPlan) -> Iterator[dg.DagsterEvent]:
        """Run the steps of a plan, with resources that are there already, and yield the events of all of them."""
        context = job_context
        with (
            InstanceConcurrencyContext(context.instance, context.dagster_run) as concurrency,
            execution_plan.start(
                retry_mode=self._retries,
                tag_concurrency_limits=self._tag_concurrency_limits,
                instance_concurrency_context=concurrency,
                step_dependency_config=self.step_dependency_config,
            ) as active,
            contextlib.closing(WarmProcesses(self._warm)) as warm_processes,
            contextlib.closing(Cloners()) as cloners,
            contextlib.closing(_heartbeats(context, warm_processes)) as heartbeats,
        ):
            steps = _Steps(context, warm_processes, cloners)
            retries: dict[str, dg.DagsterEvent] = {}
            error: BaseException | None = None
            kill_at = leave_at = math.inf
            try:
                while steps.are_running or not (error is not None or active.is_complete):
                    if error is None and active.check_for_interrupts():
                        yield dg.DagsterEvent.engine_event(
                            context,
                            "Threads executor: received termination signal - ending the running steps",
                            EngineEventData.interrupted(steps.keys),
                        )
                        active.mark_interrupted()
                        error = dg.DagsterExecutionInterruptedError()
                        steps.end()
                        kill_at = time.monotonic() + TERMINATION_TIMEOUT_SECONDS
                    if time.monotonic() > kill_at:
                        steps.kill()
                        kill_at, leave_at = math.inf, time.monotonic() + LEAVE_SECONDS
                    if time.monotonic() > leave_at:
                        yield dg.DagsterEvent.engine_event(
                            context,
                            f"Threads executor: steps that do not end are left to themselves: {', '.join(steps.keys)}",
                            EngineEventData.interrupted(steps.keys),
                        )
                        steps.leave()
                    if error is None:
                        room = self._max_concurrent - steps.busy_count
                        # it sorts all steps that could run, also if none is to
                        for step in active.get_steps_to_execute(limit=room) if room > 0 else ():
                            steps.start(step, context.for_step(step, active.get_known_state()))
                        yield from active.concurrency_event_iterator(context)
                    for news in steps.news(_seconds_to_wait(active)):
                        if news.event is not None:
                            heartbeats.watch(news.event)
                            yield news.event
                            if news.event.is_step_up_for_retry:
                                retries[news.step.key] = news.event
                            else:
                                active.handle_event(news.event)
                        if news.error is not None and context.raise_on_error and error is None:
                            error = news.error
                            steps.end()
                            kill_at = time.monotonic() + TERMINATION_TIMEOUT_SECONDS
                        if news.is_end:
                            # not earlier: the next attempt has the same key
                            if news.step.key in retries:
                                active.handle_event(retries.pop(news.step.key))
                            yield from self._ended(active, context, news)
                    if error is None:
                        # skipped steps; and dynamic outputs become steps, without which the plan would seem complete
                        yield from active.plan_events_iterator(context)
            finally:
                steps.end()
                steps.wait()
            if error is not None:
                raise error

    def _ended(self, active: Any, context: PlanExecutionContext, news: _News) -> Iterator[dg.DagsterEvent]:
        """Take the end of a step's thread; one that has left no outcome has failed."""
        key = news.step.key
        if key in active._in_flight and news.error is not None and not context.raise_on_error:
            step_context = context.for_step(news.step, active.get_known_state())
            event = self.log_failure_or_retry_event_after_error(
                step_context, described(news.error), active.get_known_state()
            )
            active.handle_event(event)
            yield event
        active.verify_complete(context, key)


@dataclass(frozen=True)
class _News:
    """News from a step's thread: an event, an error that it was left with, that it gives way, its end."""

    step: ExecutionStep
    event: dg.DagsterEvent | None = None
    error: BaseException | None = None
    gives_way: bool = False
    is_end: bool = False


@dataclass
class _Steps:
    """The steps that run in threads."""

    context: PlanExecutionContext
    warm_processes: WarmProcesses
    cloners: Cloners
    _running: dict[str, tuple[threading.Thread, StepThread]] = field(default_factory=dict)
    _busy: set[str] = field(default_factory=set)
    _news: queue.SimpleQueue[_News] = field(default_factory=queue.SimpleQueue)

    @property
    def keys(self) -> list[str]:
        """The keys of the steps that run."""
        return list(self._running)

    @property
    def are_running(self) -> bool:
        """Whether any step runs."""
        return bool(self._running)

    @property
    def busy_count(self) -> int:
        """The number of steps that run, without those whose process has ended and which only have to report."""
        return len(self._busy)

    def start(self, step: ExecutionStep, context: StepExecutionContext) -> None:
        """Run a step in a thread of its own."""
        step_thread = StepThread(
            warm_processes=self.warm_processes,
            cloners=self.cloners,
            gives_way=lambda: self._news.put(_News(step, gives_way=True)),
        )
        thread = threading.Thread(target=self._run, args=(step, context, step_thread), name=step.key, daemon=True)
        self._running[step.key] = thread, step_thread
        self._busy.add(step.key)
        thread.start()

    def news(self, wait_seconds: float) -> Iterator[_News]:
        """The threads' news since the last call; waits for the first, if there are none."""
        with contextlib.suppress(queue.Empty):
            news = self._news.get(timeout=wait_seconds)
            while True:
                if news.is_end or news.gives_way:
                    self._busy.discard(news.step.key)
                if news.is_end:
                    del self._running[news.step.key]
                yield news
                news = self._news.get_nowait()

    def end(self) -> None:
        """Ask all steps to end."""
        for _, step_thread in self._running.values():
            step_thread.end()

    def wait(self) -> None:
        """Wait until all threads have ended; processes that go on for too long are killed."""
        give_up_at = time.monotonic() + TERMINATION_TIMEOUT_SECONDS
        for thread, _ in self._running.values():
            thread.join(max(0.0, give_up_at - time.monotonic()))
        self.kill()
        for thread, _ in self._running.values():
            thread.join(POLL_SECONDS)

    def kill(self) -> None:
        """Kill what the steps wait for."""
        for _, step_thread in self._running.values():
            step_thread.kill()

    def leave(self) -> None:
        """Wait no longer for the steps that run."""
        self._running.clear()
        self._busy.clear()

    def _run(self, step: ExecutionStep, context: StepExecutionContext, step_thread: StepThread) -> None:
        error: BaseException | None = None
        try:
            with running(step_thread), compute_logs(context, step_thread, lambda event: self._tell(step, event)):
                events = []
                for event in dagster_event_sequence_for_step(context):
                    events.append(event)
                    self._tell(step, event)
                for event in _trigger_hook(context, events):
                    self._tell(step, event)
        except BaseException as raised:  # the executor's own thread raises it, or reports it as the op's failure
            error = raised
        self._news.put(_News(step, error=error, is_end=True))

    def _tell(self, step: ExecutionStep, event: dg.DagsterEvent) -> None:
        self._news.put(_News(step, event))


@contextlib.contextmanager
def _short_turns() -> Iterator[None]:
    """Let the threads of this process take turns after `SWITCH_SECONDS`."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _heartbeats(context: PlanExecutionContext, warm_processes: WarmProcesses) -> Heartbeats:
    """The heartbeats of the Metaflow runs of a run, by processes that are forked where that can be."""

    def fork(launch: StepLaunch, flow: MetaflowFlow) -> StepProcess | None:
        return warm_processes.fork(launch, flow.datastore, str(flow.path), context.log.warning)

    return Heartbeats(context.dagster_run, context.job_def, context.instance, fork)


def _warm_start(value: str) -> WarmStart:
    """The way to start steps that run config, environment or file name."""
    for start in WARM_STARTS:
        if value == start:
            return start
    raise dg.DagsterInvalidConfigError(
        f"warm of the threads executor is {value!r}, but has to be one of {', '.join(WARM_STARTS)}: see the run config "
        f"and the environment variable {WARM_VARIABLE}.",
        [],
        {"warm": value},
    )


def _seconds_to_wait(active: Any) -> float:
    """Seconds to wait for news: until the next retry is due, but not so long that an interrupt goes unnoticed."""
    interval = active.sleep_interval()
    return min(POLL_SECONDS, interval) if interval > 0 else POLL_SECONDS
