"""Asset checks in a flow's own code: `@dagster_check` declares one of a step, and `dagster_check.report` reports it.

Metaflow copies this file into its code packages, where neither Dagster nor the rest of metaflow-pipes is: it works in
every run of a flow, on Dagster or not.
"""

from __future__ import annotations

import json
import math
import os
import re
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from metaflow.decorators import StepDecorator, _base_step_decorator
from metaflow.exception import MetaflowException
from metaflow.metadata_provider import MetaDatum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Step = TypeVar("Step", bound=Callable[..., Any])
    Severity = Literal["WARN", "ERROR"]

# The file of a task's datastore, and the metadatum of the task, that hold the results of its checks as JSON.
STORED = "dagster_checks"
METADATUM = "dagster-checks"
# As Dagster wants the name of an output, which a check's is a part of.
_NAME = re.compile(r"[A-Za-z0-9_]+")
_SEVERITIES = ("WARN", "ERROR")


class CheckFailedError(MetaflowException):
    """A blocking check of a step has failed, and so the step does."""

    headline = "Blocking check failed"


class CheckError(MetaflowException):
    """A check that is declared or reported in a wrong way."""

    headline = "Wrong check"


class TaskChecks:
    """The results of the checks that one attempt of a task has reported.

    Args:
        datastore: The task's datastore.
        metadata: The metadata provider.
        path: The run, the step and the task.
        attempt: The attempt, from 0.

    Attributes:
        path: As given.
        attempt: As given.
        results: For each check that was reported, its latest result: `passed`, `severity` and `metadata`.
    """

    def __init__(self, datastore: Any, metadata: Any, path: tuple[str, str, str], attempt: int):
        self.path = path
        self.attempt = attempt
        self.results: dict[str, dict[str, Any]] = {}
        self._datastore = datastore
        self._metadata = metadata
        self._stored: dict[str, dict[str, Any]] = {}
        self._pid = os.getpid()

    @property
    def step(self) -> str:
        """The step's name."""
        return self.path[1]

    @property
    def is_here(self) -> bool:
        """Whether this is the task's own process, and none that it has forked."""
        return os.getpid() == self._pid

    def add(self, name: str, result: dict[str, Any]) -> None:
        """Take the result of a check.

        Args:
            name: The check's name.
            result: Its result.

        Raises:
            CheckError: This is a process that the step's own has forked, whose memory ends with it.
        """
        if not self.is_here:
            raise CheckError(
                f"Check {name} of step {self.step} is reported in a process that the step's own has started. Hand the "
                "result back, and report it in the step's own process."
            )
        self.results[name] = result

    def store(self) -> None:
        """Store the results with the task, for Dagster, the client, and the clones of the task."""
        if self.results == self._stored:
            return
        self._stored = dict(self.results)
        self._datastore.save_metadata({STORED: self.results})
        entry = MetaDatum(
            field=METADATUM,
            value=json.dumps(self.results),
            type=METADATUM,
            tags=[f"attempt_id:{self.attempt}"],
        )
        self._metadata.register_metadata(*self.path, [entry])

    def raise_if_failed(self, blocking: Iterable[str]) -> None:
        """Let the step fail if one of these checks has failed.

        Args:
            blocking: The names of the checks.

        Raises:
            CheckFailedError: It has, with the severity ERROR.
        """
        failed = [
            f"Check {name} of step {self.step} {shown(self.results[name])}"
            for name in blocking
            if name in self.results and is_error(self.results[name])
        ]
        if failed:
            raise CheckFailedError("\n".join([*failed, "It is blocking: no step behind this one runs."]))


# The checks of the task that runs in this process, if one does.
current: TaskChecks | None = None


def begin(step: str, datastore: Any, metadata: Any, run_id: str, task_id: str, attempt: int) -> TaskChecks:
    """The checks of an attempt that is about to run in this process: the same for each decorator that asks.

    Args:
        step: The step's name.
        datastore: The task's datastore.
        metadata: The metadata provider.
        run_id: The Metaflow run.
        task_id: The task.
        attempt: The attempt, from 0.
    """
    global current
    path = (run_id, step, task_id)
    if current is None or (current.path, current.attempt) != (path, attempt):
        current = TaskChecks(datastore, metadata, path, attempt)
    return current


def shown(result: Mapping[str, Any]) -> str:
    """A result as the predicate of a sentence: `failed (ERROR): rows = 3`."""
    how = "passed" if result["passed"] else f"failed ({result['severity']})"
    entries = [f"{key} = {_bare(value)}" for key, value in result["metadata"].items()]
    return how + (f": {', '.join(entries)}" if entries else "")


def is_error(result: Mapping[str, Any]) -> bool:
    """Whether a result says that the check has failed, and not as a warning only."""
    return not result["passed"] and result["severity"] == "ERROR"


def _bare(value: Any) -> Any:
    """A metadata value without the type that Dagster Pipes gives it."""
    return value["raw_value"] if isinstance(value, dict) and set(value) == {"raw_value", "type"} else value


def _plain(name: str, key: str, value: Any) -> Any:
    """A metadata value as JSON has it, in the form of Dagster Pipes."""
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "ndim", None) == 0:  # a number of NumPy
        value = item()
    if isinstance(value, float) and not math.isfinite(value):  # which JSON has not
        return str(value)
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckError(f"The metadata {key} of check {name} can't be written as JSON: {error}") from None
    is_structure = isinstance(value, (dict, list, tuple)) and not (
        isinstance(value, dict) and set(value) == {"raw_value", "type"}
    )
    return {"raw_value": value, "type": "json"} if is_structure else value


class DagsterCheckDecorator(StepDecorator):
    """Declares an asset check of a step's asset."""

    name = "dagster_check"
    allow_multiple = True
    defaults = {"name": None, "blocking": False, "description": None}  # noqa: RUF012 - as Metaflow has it

    def step_init(
        self,
        flow: Any,
        graph: Any,
        step_name: str,
        decorators: Any,
        environment: Any,
        flow_datastore: Any,
        logger: Any,
    ) -> None:
        """Check the check's own name.

        Raises:
            CheckError: It is none, or another check of the step has it.
        """
        name = self.attributes["name"]
        where = f"Step *{step_name}* of flow *{flow.name}*"
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise CheckError(
                f"{where}: @dagster_check needs a name of letters, digits and underscores, as in "
                f'@dagster_check("enough_rows"), and got {name!r}.'
            )
        description = self.attributes["description"]
        if description is not None and not isinstance(description, str):
            raise CheckError(f"{where}: the description of @dagster_check {name} is no text: {description!r}.")
        names = [other.attributes["name"] for other in decorators if other.name == self.name]
        if names.count(name) > 1:
            raise CheckError(f"{where} has more than one @dagster_check of the name {name}. Leave one of them out.")

    def task_pre_step(
        self,
        step_name: str,
        task_datastore: Any,
        metadata: Any,
        run_id: str,
        task_id: str,
        flow: Any,
        graph: Any,
        retry_count: int,
        max_user_code_retries: int,
        ubf_context: Any,
        inputs: Any,
    ) -> None:
        """Before the step's code runs."""
        begin(step_name, task_datastore, metadata, run_id, task_id, retry_count)

    def task_post_step(
        self,
        step_name: str,
        flow: Any,
        graph: Any,
        retry_count: int,
        max_user_code_retries: int,
    ) -> None:
        """Called when the step's code has ended well.

        Raises:
            CheckFailedError: The check is blocking, and has failed.
        """
        assert current is not None
        current.store()
        # the first of several decorators tells of all
        current.raise_if_failed(
            [
                decorator.attributes["name"]
                for decorator in getattr(flow, step_name).decorators
                if decorator.name == self.name and decorator.attributes["blocking"]
            ]
        )

    def task_exception(
        self,
        exception: BaseException,
        step_name: str,
        flow: Any,
        graph: Any,
        retry_count: int,
        max_user_code_retries: int,
    ) -> None:
        """Called when the step's code has raised: what it has reported before is known."""
        if current is not None:
            current.store()


class DagsterCheck:
    """Declares an asset check of a step, as its decorator, and reports its result, by `report`.

    Example:
        ```python
        from metaflow import FlowSpec, dagster_check, step

        class TrainFlow(FlowSpec):
            @dagster_check("enough_rows", blocking=True, description="The table has 1000 rows or more.")
            @step
            def start(self):
                self.rows = load()
                dagster_check.report("enough_rows", len(self.rows) >= 1000, metadata={"rows": len(self.rows)})
                self.next(self.end)
        ```
    """

    def __call__(self, name: str, *, blocking: bool = False, description: str | None = None) -> Callable[[Step], Step]:
        """Declare a check of the step below, so that Dagster's UI shows it. A step can have several.

        Args:
            name: The check's name: letters, digits and underscores.
            blocking: Whether the step fails if the check does, with the severity ERROR.
            description: What the check makes sure of.
        """

        def declare(step: Step) -> Step:
            options = {"name": name, "blocking": blocking, "description": description}
            declared: Any = _base_step_decorator(DagsterCheckDecorator, step, **options)
            return declared

        return declare

    def report(
        self, name: str, passed: Any, *, severity: Severity = "ERROR", metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Report the result of a check in the code of a step: printed, stored with the task, and shown by Dagster.

        The last result of a name is the one that counts. It need not be declared.

        Args:
            name: The check's name.
            passed: Whether it has passed: a truth value of Python or NumPy.
            severity: How bad it is if it has failed: `WARN`, which blocks nothing, or `ERROR`.
            metadata: What the check has seen: for each name, a value that JSON can hold.

        Raises:
            CheckError: An argument is wrong, or this process is not the step's own.
        """
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise CheckError(f"The name of a check is made of letters, digits and underscores, and got {name!r}.")
        if severity not in _SEVERITIES:
            raise CheckError(f"The severity of check {name} is {severity!r}. Use WARN or ERROR.")
        entries = {str(key): _plain(name, str(key), value) for key, value in (metadata or {}).items()}
        result = {"passed": bool(passed), "severity": severity, "metadata": entries}
        if current is not None:
            current.add(name, result)
        print(f"Check {name} {shown(result)}")


dagster_check = DagsterCheck()
