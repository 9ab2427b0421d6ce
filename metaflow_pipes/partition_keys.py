"""The keys of partitions, as messages name them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# How many of the first and of the last keys a message names.
SHOWN_KEYS = 5


def known_keys(keys: Sequence[str]) -> str:
    """The sentence that says which partitions there are."""
    if not keys:
        return "There is none yet."
    if len(keys) <= 2 * SHOWN_KEYS:
        return f"There {'is' if len(keys) == 1 else 'are'} {', '.join(keys)}."
    return f"There are {len(keys)}: {', '.join(keys[:SHOWN_KEYS])}, ..., {', '.join(keys[-SHOWN_KEYS:])}."
