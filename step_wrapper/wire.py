"""The wire between an op and its step: what the op asks for, and what the step reports.

Both sides import it, as `step_wrapper.companions` and nothing else. It needs the standard library alone, and costs a
step's start next to nothing.
"""

# Annotations are no text here (`from __future__ import annotations`), which typing would compile, one by one.
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Optional, TypedDict

# In the environment of a background process that runs a Dagster run: that run. The supervisor of a step that has
# launched it, for a flow that triggers flows, ends what its step leaves behind, but not this.
RUN_WORKER_VARIABLE = "METAFLOW_PIPES_RUN_WORKER"
# Counts up with each change of what is sent. Release 0.1, which is version 1, does not say it.
VERSION = 4
# The Pipes extra that holds the request, and the key of the custom Pipes message that holds the report.
REQUEST = "metaflow"
REPORT = "metaflow_task"
# The key of a custom Pipes message that holds an event which the step's code publishes, and how long one may be: the
# longest message that the op takes is a bit longer.
EVENT = "metaflow_event"
MAX_EVENT_CHARACTERS = 900_000
# The key of a custom Pipes message that holds the job on another system which runs the step.
JOB = "metaflow_job"

# Of a name's words, with spaces between them: those of which one is enough to say that the value is a secret, and those
# with which the names of numbers begin or end. Compiled when they are first needed.
_TELLING_WORDS = (
    r"\b(token|secrets?|passwords?|passwd|passphrase|pwd|credentials?|creds|auth|apikey"
    r"|(api|access|private|secret|auth|signing|encryption) keys?)\b"
)
_MEASURING_WORDS = r"^(n|num|max|min|mean|avg|total)\b|\b(count|len|length|limit|rate|size)$"


class OtherVersionError(Exception):
    """One side has been sent something by another version of this package.

    Args:
        sent: The version of the wire that the other side speaks.
    """

    def __init__(self, sent: object):
        super().__init__(
            "the Dagster process and the step's process use versions of metaflow-pipes that do not understand each "
            f"other (version {VERSION} of the wire between them here, {sent} there). If it was upgraded while Dagster "
            "was running, restart Dagster's processes; else let both have the same version."
        )


class Job(TypedDict):
    """A job on another system that runs a step.

    Attributes:
        system: The group of Metaflow's commands that knows it: `kubernetes`, `batch` or an extension's.
        namespace: The namespace of Kubernetes, or None.
        id: Its id as Metaflow shows it, such as `pod t-1-abc`; None if it is not known yet.
        url: Where it can be looked at, or None.
    """

    system: str
    namespace: str | None
    id: str | None
    url: str | None


class Search(NamedTuple):
    """The run from which a run of selected steps clones the others: the newest one in which they are done.

    Attributes:
        tags: Metaflow tags and system tags that it has.
        upstream: For each step that the run runs or clones, in the flow's order, the steps that it takes.
    """

    tags: list[str]
    upstream: dict[str, list[str]]


class Resumption(NamedTuple):
    """The resumption of another run.

    Attributes:
        origin_run_id: The Metaflow run that is resumed; empty as long as it is to be searched for.
        steps_to_clone: The steps whose tasks are cloned if they are done in the origin.
        overridden_parameters: The parameters, by their names, that do not keep the origin's value.
        may_clone: Whether tasks are cloned at all: not in a re-execution that runs steps again on purpose.
        search: How the origin of a run of selected steps is found, whose other steps must not run; None if the origin
            is given, and steps that it has not done run.
    """

    origin_run_id: str
    steps_to_clone: list[str]
    overridden_parameters: list[str]
    may_clone: bool
    search: Search | None = None

    def as_values(self) -> dict[str, Any]:
        """The values of its attributes, as JSON has them."""
        return {**self._asdict(), "search": None if self.search is None else self.search._asdict()}

    @classmethod
    def of_values(cls, values: Mapping[str, Any]) -> "Resumption":
        """The inverse of `as_values`."""
        search = values["search"]
        return cls(**{**values, "search": None if search is None else Search(**search)})


class Request(NamedTuple):
    """One attempt of a Metaflow task.

    Attributes:
        flow: The flow's name.
        run_id: The Metaflow run.
        step: The step's name.
        task_id: The task.
        attempt: The attempt, from 0.
        command: The arguments of Metaflow's `step` command; the first is the flow file.
        init: The arguments of Metaflow's `init` command, by which the start step stores the run's parameters.
        configs: The values of the flow's `Config`s, as Metaflow's runner hands them to its tasks.
        datastore: The type of the datastore.
        datastore_root: Its root, an absolute path or a URL.
        timeout_seconds: The limit of `@timeout`, or None.
        log_level: The lowest level of `logging` records that Dagster gets too, or None for no record.
        indices: The indices of its foreach items, the outermost first; a control task has none of its own.
        iteration: The iteration of a recursive step, from 0, or None.
        done_as: Ids of tasks any of which, if it is done, is reported in place of running this one.
        asset_key: The key of the Dagster asset that the task's metadata is reported for, as Pipes writes keys.
        ended_with: The exit code of the attempt's supervisor, if it has ended without a report, so that what is stored
            of the attempt is to be reported; None if the attempt is to be run.
        resumption: How the run resumes another; None if it doesn't.
        system_tags: More system tags of the Metaflow run: how it was started.
        dagster_run_id: The Dagster run.
        dagster_job_name: Its job.
        dagster_step_key: The Dagster step.
        run_limit_seconds: The time limit of the run, or None.
        run_seconds_left: How much of it is left when the supervisor starts, or None.
        triggers: The events that have triggered the run: `name`, `id`, `timestamp` and `type` of each; or none.
        blocking_checks: The asset checks of the step that let it fail if they do.
        remote_env: Variables that a step on another system gets too, beside those of its `@environment`.
        is_own_pod: Whether the op runs in a pod of its own, which is the one that `@kubernetes` asks for.
        job: The job on another system that the attempt has left, if it is only to be reported; else None.
    """

    flow: str
    run_id: str
    step: str
    task_id: str
    attempt: int
    command: list[str]
    init: list[str] | None
    configs: Mapping[str, Any]
    datastore: str
    datastore_root: str
    timeout_seconds: int | None
    log_level: int | None
    indices: list[int]
    iteration: int | None
    done_as: list[str]
    asset_key: str
    ended_with: int | None
    resumption: Resumption | None
    system_tags: list[str]
    dagster_run_id: str
    dagster_job_name: str
    dagster_step_key: str
    run_limit_seconds: int | None
    run_seconds_left: float | None
    triggers: list[dict[str, Any]]
    blocking_checks: list[str]
    remote_env: dict[str, str]
    is_own_pod: bool
    job: Job | None

    @property
    def may_be_cloned(self) -> bool:
        """Whether nothing but cloning a task is asked for, should the origin have one: the start step begins a run."""
        resumption = self.resumption
        if resumption is None or not resumption.may_clone or self.step not in resumption.steps_to_clone:
            return False
        return self.init is None and self.ended_with is None and not self.done_as

    def as_extras(self) -> dict[str, Any]:
        """The Pipes extras that hold the request."""
        resumption = None if self.resumption is None else self.resumption.as_values()
        configs = {name: _typed(value) for name, value in self.configs.items()}
        return {REQUEST: {"version": VERSION, **self._asdict(), "resumption": resumption, "configs": configs}}

    @classmethod
    def values_in(cls, extras: Mapping[str, Any]) -> dict[str, Any]:
        """The values of the request that Pipes extras hold.

        Args:
            extras: What `as_extras` has made.

        Raises:
            OtherVersionError: Another version of this package has made them.
        """
        values = dict(extras[REQUEST])
        version = values.pop("version", 1)
        if version != VERSION:
            raise OtherVersionError(version)
        if values["resumption"] is not None:
            values["resumption"] = Resumption.of_values(values["resumption"])
        values["configs"] = {name: _untyped(value) for name, value in values["configs"].items()}
        return values


def _typed(value: Any) -> Any:
    """A config's value as JSON that tells tuples from lists, and numbers as keys from strings.

    A list is a list; `{"tuple": [...]}` and `{"dict": [[key, value], ...]}` are those.
    """
    if isinstance(value, Mapping):
        return {"dict": [[_typed(key), _typed(item)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_typed(item) for item in value]}
    return [_typed(item) for item in value] if isinstance(value, list) else value


def _untyped(value: Any) -> Any:
    """A config's value, from what `_typed` makes of it."""
    if isinstance(value, list):
        return [_untyped(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, items),) = value.items()
    if kind == "tuple":
        return tuple(_untyped(item) for item in items)
    return {_untyped(key): _untyped(item) for key, item in items}


class SerializedException(TypedDict):
    """An exception with its traceback and causes.

    Attributes:
        type: The name of its class.
        module: The module of its class.
        message: Its text, with its notes.
        frames: The frames of its traceback, the outermost first: file, line and function of each.
        cause: The exception that it was raised from, or None.
        context: The exception during whose handling it was raised, or None.
    """

    type: str
    module: str
    message: str
    frames: list[tuple[str, int, str]]
    cause: Optional["SerializedException"]
    context: Optional["SerializedException"]


class Failure(TypedDict):
    """The failure of an attempt, as the step's side reports it.

    Attributes:
        reason: The predicate of a sentence about the step.
        traceback: The user's traceback, or the empty string.
        exception: What the step's code raised, or None.
        stderr: The end of stderr, or the empty string.
        allow_retries: Whether another attempt can end otherwise.
    """

    reason: str
    traceback: str
    exception: SerializedException | None
    stderr: str
    allow_retries: bool


class Report(TypedDict):
    """The outcome of one attempt of a task.

    Attributes:
        task_id: The task, which for an iteration that was done before is not the one that was asked for.
        duration_seconds: From the launch of the step's process to its end.
        is_cached: Whether it was done before, and did not run.
        cloned_from: The pathspec of the task of another run that it is a clone of, so that it did not run; or None.
        next_steps: The steps that it goes on to.
        num_splits: Into how many items it splits; None if only its control task knows, or if it doesn't.
        control_tasks: The paths of the task and of those that it has started, if it is a control task.
        failure: Why it failed, or None.
    """

    task_id: str
    duration_seconds: float
    is_cached: bool
    cloned_from: str | None
    next_steps: list[str]
    num_splits: int | None
    control_tasks: list[str]
    failure: Failure | None


def report_message(report: Report | None) -> dict[str, Any]:
    """The custom Pipes message that holds a report.

    Args:
        report: The report; None where the request could not be read, so that there is no more to say than the version.
    """
    return {REPORT: {"version": VERSION, **(report or {})}}


def report_in(message: Any) -> Report:
    """The report that a custom Pipes message holds. Its values come from outside, and may be of any type.

    Args:
        message: What `report_message` has made.

    Raises:
        OtherVersionError: Another version of this package has made it.
        KeyError: It holds no report: the step's own code may send messages, too.
        TypeError: The same.
    """
    report = message[REPORT]
    if report["version"] != VERSION:
        raise OtherVersionError(report["version"])
    return report


def job_message(job: Job) -> dict[str, Any]:
    """The custom Pipes message that holds a job on another system."""
    return {JOB: {"version": VERSION, **job}}


def job_in(message: Any) -> Job | None:
    """The job that a custom Pipes message holds; None if it holds none.

    Args:
        message: What `job_message` has made, or the step's code.
    """
    job = message.get(JOB) if isinstance(message, dict) else None
    if not isinstance(job, dict) or job.get("version") != VERSION:
        return None
    values = [job.get(name) for name in ("system", "namespace", "id", "url")]
    if not isinstance(values[0], str) or not all(value is None or isinstance(value, str) for value in values):
        return None
    return Job(system=values[0], namespace=values[1], id=values[2], url=values[3])


def stamped(name: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    """A payload with the fields that Metaflow gives each event, as its `ArgoEvent` does; the payload's own rank above.

    Args:
        name: The event's name.
        payload: The fields of the event.
    """
    import time
    import uuid

    now = time.time()
    return {
        "name": name,
        "id": str(uuid.uuid4()),
        "timestamp": int(now),
        "utc_date": time.strftime("%Y%m%d", time.gmtime(now)),
        "generated-by-metaflow": True,
        **{str(field): value for field, value in payload.items()},
    }


def event_message(name: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    """The custom Pipes message that holds an event.

    Args:
        name: The event's name.
        payload: All of its fields.

    Raises:
        TypeError: A field is no JSON value.
        ValueError: The event is too long, or a field refers to itself.
    """
    import json

    message = {EVENT: {"version": VERSION, "name": name, "payload": dict(payload)}}
    length = len(json.dumps(message))
    if length > MAX_EVENT_CHARACTERS:
        raise ValueError(
            f"as JSON, it has {length} characters, and {MAX_EVENT_CHARACTERS} are the most that an event can have: "
            "store the data elsewhere, and let the event say where"
        )
    return message


def event_in(message: Any) -> tuple[str, dict[str, Any]] | None:
    """The name and the payload of the event that a custom Pipes message holds; None if it holds none.

    Args:
        message: What `event_message` has made, or the step's code.
    """
    event = message.get(EVENT) if isinstance(message, dict) else None
    if not isinstance(event, dict) or event.get("version") != VERSION:
        return None
    name, payload = event.get("name"), event.get("payload")
    return (name, payload) if isinstance(name, str) and name and isinstance(payload, dict) else None


def names_a_secret(name: str) -> bool:
    """Whether a variable or an artifact is called like a secret, so that its value is not shown: none is reported.

    The compiler warns of the same names before it writes their values into a definitions file.

    Args:
        name: The name. Only its whole words count, however they are put together: `num_tokens` is none, `hfToken` is.
    """
    if name == "PWD":  # the shell's working directory
        return False
    words = " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)).lower()
    return re.search(_TELLING_WORDS, words) is not None and re.search(_MEASURING_WORDS, words) is None
