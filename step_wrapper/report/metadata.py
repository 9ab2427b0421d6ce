"""The metadata of a task that is done, in the form of Dagster Pipes, read from Metaflow's datastore."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from metaflow.metaflow_config import UI_URL

from step_wrapper.report.cards import cards_metadata
from step_wrapper.wire import names_a_secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from step_wrapper.launch import Launch

Metadata = dict[str, dict[str, Any]]

# The run page loads every event of a run, and a foreach has many: none may be large.
MAX_TABLE_ROWS = 50
MAX_VALUES = 30
MAX_FRAMES = 5
MAX_COLUMNS = 200
MAX_TEXT_CHARACTERS = 200
# What is loaded to be shown, by its pickled size.
MAX_SCALAR_BYTES = 1_000
MAX_JSON_BYTES = 4_000
MAX_FRAME_BYTES = 16_000_000
# Dagster's database and its plots hold integers of 64 bits.
MAX_INTEGER = 2**63 - 1

# What Metaflow itself keeps among the artifacts of a task.
METAFLOW_ARTIFACTS = frozenset(
    {
        "name",
        "_configs_processed",
        "_control_mapper_tasks",
        "_control_task_is_mapper_zero",
        "_current_step",
        "_exception",
        "_foreach_num_splits",
        "_foreach_stack",
        "_foreach_values",
        "_foreach_var",
        "_graph_info",
        "_is_cloned",
        "_iteration_stack",
        "_parallel_ubf_iter",
        "_success",
        "_task_ok",
        "_transition",
        "_unbounded_foreach",
    }
)
_SCALAR = re.compile(r"int|float|bool|str|numpy\.(?:float|int|uint)\d+|numpy\.bool_?")
_COLLECTION = re.compile(r"dict|list|tuple")
_FRAME = re.compile(r"(?:pandas|polars)\.(?:.*\.)?DataFrame")


class Artifact(NamedTuple):
    """An artifact of a task.

    Attributes:
        name: Its name.
        type: Its type, with the module unless that is `builtins`; empty if it is not known.
        size: Its pickled size in bytes, or None if it is not known.
        origin: `new`, `changed` (its inputs have another value of it), `inherited`, or None if it is not known.
    """

    name: str
    type: str
    size: int | None
    origin: str | None

    @property
    def is_produced(self) -> bool:
        """Whether the task itself made it."""
        return self.origin != "inherited"

    def fits(self, pattern: re.Pattern[str], max_bytes: int) -> bool:
        """Whether it has one of some types, and is small enough."""
        return pattern.fullmatch(self.type) is not None and self.size is not None and self.size <= max_bytes


@dataclass(frozen=True)
class TaskFacts:
    """The facts that the metadata of a task is made of.

    Attributes:
        launch: Its attempt.
        stored: What the datastore holds of it (`metaflow.datastore.TaskDataStore`).
        duration_seconds: How long it ran; None if it did not run, but is a clone.
        inherited: The artifacts of its input tasks, each name with the keys of its values; None if not known.
        has_cards: Whether it may have cards.
        cloned_from: The pathspec of the task that it is a clone of, or None.
    """

    launch: Launch
    stored: Any
    duration_seconds: float | None
    inherited: Mapping[str, set[str]] | None
    has_cards: bool
    cloned_from: str | None = None

    @property
    def task_path(self) -> str:
        """The task, as `run_id/step/task_id`."""
        return f"{self.launch.run_id}/{self.launch.step}/{self.launch.task_id}"


def task_metadata(facts: TaskFacts) -> Metadata:
    """All that Dagster shows of a task.

    Args:
        facts: The task.

    Returns:
        The metadata, as `dagster_pipes` takes it. Where an artifact is called like one of the entries about the
        task, it is shown as `<name> (artifact)`.
    """
    artifacts = artifacts_of(facts.stored, facts.inherited)
    about = {**_cards(facts), **_artifacts_table(artifacts), **_identity(facts), **_snippet(facts, artifacts)}
    values = _values(facts.stored, [artifact for artifact in artifacts if artifact.is_produced])
    # Dagster shows the entries in this order: what the step made comes first
    return {**{f"{name} (artifact)" if name in about else name: value for name, value in values.items()}, **about}


def artifacts_of(stored: Any, inherited: Mapping[str, set[str]] | None) -> list[Artifact]:
    """The artifacts of a task that are the user's, those that it made first, without reading any value."""
    artifacts = []
    for name, key in sorted(stored._objects.items()):
        if name in METAFLOW_ARTIFACTS:
            continue
        info = stored._info.get(name, {})
        before = None if inherited is None else inherited.get(name, ())
        origin = None if before is None else "new" if not before else "inherited" if key in before else "changed"
        artifacts.append(Artifact(name, _type_name(info), info.get("size"), origin))
    return sorted(artifacts, key=lambda artifact: (not artifact.is_produced, artifact.name.startswith("_")))


def data_version(stored: Any) -> str:
    """A version that is the same for two tasks if all of their artifacts are.

    Metaflow's artifacts are stored under a digest of their content.
    """
    import hashlib

    keys = sorted((name, key) for name, key in stored._objects.items() if name not in METAFLOW_ARTIFACTS)
    return hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:16]


def _type_name(info: Mapping[str, Any]) -> str:
    text = str(info.get("type", ""))
    match = re.fullmatch(r"<class '(.*)'>", text)
    return match[1] if match else text


def _identity(facts: TaskFacts) -> Metadata:
    launch = facts.launch
    metadata = {}
    if facts.duration_seconds is not None:
        metadata["duration_seconds"] = _typed("float", round(facts.duration_seconds, 3))
    if facts.cloned_from is not None:
        metadata["cloned_from"] = _typed("text", facts.cloned_from)
    metadata["attempt"] = _typed("int", launch.attempt)
    if launch.iteration is not None:
        metadata["iterations"] = _typed("int", launch.iteration + 1)
    if "_control_mapper_tasks" in facts.stored:
        metadata["tasks"] = _typed("int", len(facts.stored["_control_mapper_tasks"]))
    if launch.tags:
        metadata["tags"] = _typed("text", ", ".join(launch.tags))
    metadata["pathspec"] = _typed("text", f"{launch.flow}/{facts.task_path}")
    metadata["task_path"] = _typed("text", facts.task_path)
    if UI_URL:
        metadata["metaflow_ui"] = _typed("url", f"{str(UI_URL).rstrip('/')}/{launch.flow}/{facts.task_path}")
    return metadata


def _artifacts_table(artifacts: list[Artifact]) -> Metadata:
    if not artifacts:
        return {}
    records = [artifact._asdict() for artifact in artifacts[:MAX_TABLE_ROWS]]
    if len(artifacts) > len(records):
        more = f"and {len(artifacts) - len(records)} more"
        records.append({"name": more, "type": "", "size": None, "origin": None})
    columns = [
        {"name": "name", "type": "string"},
        {"name": "type", "type": "string"},
        {"name": "size", "type": "int", "description": "bytes, pickled"},
        {"name": "origin", "type": "string", "description": "new, changed or inherited"},
    ]
    return {"artifacts": _typed("table", {"records": records, "schema": columns})}


def _snippet(facts: TaskFacts, artifacts: list[Artifact]) -> Metadata:
    value = f'["{artifacts[0].name}"].data' if artifacts else ".data"
    pathspec = f"{facts.launch.flow}/{facts.task_path}"
    code = f'from metaflow import Task, namespace\n\nnamespace(None)\nTask("{pathspec}"){value}'
    return {"retrieve": _typed("md", f"```python\n{code}\n```")}


def _cards(facts: TaskFacts) -> Metadata:
    return cards_metadata(facts.launch, facts.stored) if facts.has_cards else {}


def _values(stored: Any, artifacts: list[Artifact]) -> Metadata:
    """The values that the task made, where they are small or tables."""
    public = [a for a in artifacts if not a.name.startswith("_") and not names_a_secret(a.name)]
    small = [a.name for a in public if a.fits(_SCALAR, MAX_SCALAR_BYTES) or a.fits(_COLLECTION, MAX_JSON_BYTES)]
    frames = [a.name for a in public if a.fits(_FRAME, MAX_FRAME_BYTES)]
    typed = {name: _typed_value(value) for name, value in _load(stored, small[:MAX_VALUES]).items()}
    shown = {name: value for name, value in typed.items() if value is not None}
    for name in frames[:MAX_FRAMES]:
        # Dagster's own keys have room for one table
        prefix = "dagster/" if len(frames) == 1 else f"{name}/"
        for frame in _load(stored, [name]).values():
            shown.update({f"{prefix}{key}": value for key, value in _frame(frame).items()})
    return shown


def _load(stored: Any, names: list[str]) -> dict[str, Any]:
    """The values of artifacts, without those that can't be loaded here."""
    try:
        return dict(stored.load_artifacts(names))  # all at once: a remote datastore takes a request for each else
    except Exception:  # unpickling runs code of the user's, which may raise anything
        return {} if len(names) < 2 else {key: value for name in names for key, value in _load(stored, [name]).items()}


def _typed_value(value: Any) -> dict[str, Any] | None:
    """A small value as metadata; None if it does not fit."""
    if type(value).__module__ == "numpy":
        value = value.item()
    if isinstance(value, bool):
        return _typed("bool", value)
    if isinstance(value, int):
        return _typed("int", value) if abs(value) <= MAX_INTEGER else _typed("text", _cut(str(value)))
    if isinstance(value, float):
        # JSON, and with it Dagster's pages, has no numbers for these
        return _typed("float", value) if math.isfinite(value) else _typed("text", str(value))
    if isinstance(value, str):
        return _typed("text", value) if len(value) <= MAX_TEXT_CHARACTERS and _is_unicode(value) else None
    if isinstance(value, (dict, list, tuple)):
        try:
            return _typed("json", json.loads(json.dumps(value, allow_nan=False)))
        except (TypeError, ValueError, RecursionError):
            return None
    return None


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT_CHARACTERS else f"{text[:MAX_TEXT_CHARACTERS]}..."


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _frame(frame: Any) -> Metadata:
    """The number of rows and the columns of a pandas or polars DataFrame."""
    columns = [{"name": str(name), "type": str(kind)} for name, kind in zip(frame.columns, frame.dtypes, strict=True)]
    if len(columns) > MAX_COLUMNS:
        columns = [*columns[:MAX_COLUMNS], {"name": f"and {len(columns) - MAX_COLUMNS} more", "type": ""}]
    return {"row_count": _typed("int", len(frame)), "column_schema": _typed("table_schema", {"columns": columns})}


def _typed(kind: str, value: Any) -> dict[str, Any]:
    return {"type": kind, "raw_value": value}
