"""The cards of a task, as metadata in the form of Dagster Pipes."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from step_wrapper.launch import Launch

# The run page loads every event of a run: what is shown of a card is its beginning.
MAX_CHARACTERS = 4_000
MAX_ROWS = 20
MAX_CARDS = 10


def cards_metadata(launch: Launch, stored: Any) -> dict[str, dict[str, Any]]:
    """The cards of a task: their places, and their Markdown and tables.

    Args:
        launch: The task's attempt.
        stored: What the datastore holds of it (`metaflow.datastore.TaskDataStore`).

    Returns:
        For each card the entry `card`, with its type or id if the task has several: the path of its file on a local
        datastore, else the command that shows it. And `card content`, if it has Markdown, text or tables.
    """
    from metaflow.datastore import FlowDataStore
    from metaflow.plugins.cards.card_datastore import CardDatastore
    from metaflow.plugins.cards.exception import CardNotPresentException

    storage = type(stored._storage_impl)
    root = CardDatastore.get_storage_root(storage.TYPE)
    datastore = FlowDataStore(launch.flow, storage_impl=storage, ds_root=root)
    cards: Any = CardDatastore(datastore, f"{launch.flow}/{launch.run_id}/{launch.step}/{launch.task_id}")
    try:
        paths = sorted(cards.extract_card_paths())
    except CardNotPresentException:
        return {}
    metadata: dict[str, dict[str, Any]] = {}
    for path in paths[:MAX_CARDS]:
        info = cards.info_from_path(path)
        label = "card" if len(paths) == 1 else f"card {info.id or info.type}"
        while label in metadata:
            label += "'"
        metadata[label] = _place(launch, storage.TYPE, cards.create_full_path(path), info.hash)
        content = _content(cards, info)
        if content:
            metadata[f"{label} content"] = {"type": "md", "raw_value": content}
    return metadata


def _place(launch: Launch, storage: str, path: str, digest: str) -> dict[str, Any]:
    if storage == "local":
        return {"type": "path", "raw_value": os.path.abspath(path)}
    flow_file = shlex.quote(os.path.relpath(launch.command[0]))
    command = f"python {flow_file} card view {launch.run_id}/{launch.step}/{launch.task_id} --hash {digest}"
    return {"type": "md", "raw_value": f"`{command}`"}


def _content(cards: Any, info: Any) -> str:
    """The components that the step's code added to a card, as Markdown; empty if it has no simple ones."""
    paths = cards.extract_data_paths(card_type=info.type, card_hash=info.hash, card_id=info.id)
    data = cards.get_card_data(paths[0]).get("data") if paths else None
    if not isinstance(data, dict):
        return ""
    parts = [_markdown(component).strip() for component in data.values()]
    content = "\n\n".join(part for part in parts if part)
    if len(content) > MAX_CHARACTERS:
        content = f"{content[:MAX_CHARACTERS]} ..."
    others = parts.count("")
    return f"{content}\n\n*and {others} more on the card*" if content and others else content


def _markdown(component: object) -> str:
    """A component of a card, as `metaflow.cards` serializes it; empty if it has no simple form."""
    if not isinstance(component, dict):
        return ""
    kind = component.get("type")
    if kind == "markdown":
        return str(component.get("source", ""))
    if kind in ("text", "title", "subtitle"):
        return str(component.get("text", ""))
    return _table(component) if kind == "table" else ""


def _table(component: dict[str, Any]) -> str:
    header, rows = component.get("columns") or [], component.get("data") or []
    cells = [cell for row in rows for cell in row]
    if not rows or not all(isinstance(cell, (str, int, float, bool, type(None))) for cell in cells):
        return ""
    width = max(map(len, [header, *rows]))
    lines = [_row([*header, *[""] * (width - len(header))]), _row(["---"] * width), *map(_row, rows[:MAX_ROWS])]
    if len(rows) > MAX_ROWS:
        lines.append(f"\n*and {len(rows) - MAX_ROWS} more rows*")
    return "\n".join(lines)


def _row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|').replace(chr(10), ' ') for cell in cells)} |"
