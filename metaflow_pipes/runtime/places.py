"""The strings that travel between ops, and what they tell.

- `run_id/step/task_id`: a task;
- `run_id/step/task_id*3`: a task that splits into 3 (`*?`: into as many as its one control task finds);
- `run_id/step/task_id[2]`: the item at index 2 of that split (`[?]`: the control task);
- `run_id/step/task_id>other`: a task that goes on to the step `other`;
- several tasks with commas between them: a control task and those that it has started;
- any of these, with semicolons between them: those of several tasks.

The place of a task can be read from its id, which is the step's name and the indices of its foreach items, with hyphens
between them: `inner-3-0`. The mapping key of its Dagster step has the same indices: `inner[3_0]`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# In place of an index: the control task of a split whose size only that task knows.
CONTROL = "control"

_SPLIT = re.compile(r"(?P<path>.*)\*(?P<size>\d+|\?)")
_ITEM = re.compile(r"(?P<path>.*)\[(?P<index>\d+|\?)\]")


def split_of(path: str, size: int | None) -> str:
    """A task that splits into a number of items; None if only its control task knows how many."""
    return f"{path}*{'?' if size is None else size}"


def parse_split(text: str) -> tuple[str, int | None]:
    """The task and the number of its items; the inverse of `split_of`."""
    match = _SPLIT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no split of a Metaflow task")
    return match["path"], None if match["size"] == "?" else int(match["size"])


def is_split(text: str) -> bool:
    """Whether a text is what `split_of` makes."""
    return _SPLIT.fullmatch(text) is not None


def items_of(split: str) -> Iterator[tuple[str, str]]:
    """The items of a split, each with the last part of its mapping key."""
    path, size = parse_split(split)
    if size is None:
        yield f"{path}[?]", CONTROL
    for index in range(size or 0):
        yield f"{path}[{index}]", str(index)


def parse_item(text: str) -> tuple[str, int | None] | None:
    """The task and the index (None: the control task) of an item; None if a text is no item."""
    match = _ITEM.fullmatch(text)
    if match is None:
        return None
    return match["path"], None if match["index"] == "?" else int(match["index"])


def way_of(path: str, step: str) -> str:
    """A task that goes on to a step."""
    return f"{path}>{step}"


def parse_way(text: str) -> tuple[str, str]:
    """The task and the step that it goes on to; the inverse of `way_of`."""
    path, _, step = text.rpartition(">")
    return path, step


def indices(task: str) -> tuple[int, ...]:
    """The indices of a task's foreach items, the outermost first, as its id tells them.

    Args:
        task: `run_id/step/task_id`, maybe followed by others with commas.
    """
    _, step, task_id = parse_path(task.partition(",")[0])
    found = []
    for part in task_id[len(step) :].split("-")[1:]:
        if not part.isdecimal():
            break
        found.append(int(part))
    return tuple(found)


def parse_path(path: str) -> tuple[str, str, str]:
    """A task's run id, step and task id."""
    run_id, step, task_id = re.split(r"[*\[>]", path)[0].split("/")
    return run_id, step, task_id


def in_order(texts: Iterable[str]) -> list[str]:
    """Several tasks in Metaflow's order: by their indices, and those of split branches by the steps' names."""
    units = [unit for text in texts for unit in text.split(";") if unit]
    return sorted(units, key=lambda unit: (indices(unit), parse_path(unit.partition(",")[0])[1]))


def tasks_of(texts: Iterable[str]) -> list[str]:
    """The tasks of texts, in Metaflow's order; control tasks are followed by those that they have started."""
    return [path for unit in in_order(texts) for path in unit.split(",")]
