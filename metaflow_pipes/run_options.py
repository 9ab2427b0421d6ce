"""Options of one run, as tags of the Dagster run: what `trigger` and `resume` write there, and its ops read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metaflow_pipes.names import (
    DECOSPECS_TAG,
    MAX_RUNTIME_TAG,
    METAFLOW_TAG_PREFIX,
    NAMESPACE_TAG,
    RUN_TAGS_TAG,
    WORKFLOW_TIMEOUT_TAG,
)
from metaflow_pipes.run_tags import tag_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

OPTION_TAGS = (RUN_TAGS_TAG, DECOSPECS_TAG, NAMESPACE_TAG, WORKFLOW_TIMEOUT_TAG)


@dataclass(frozen=True)
class RunOptions:
    """Options of one run, beside those of its deployment.

    Attributes:
        tags: Metaflow tags.
        decospecs: Decorators for every step, as in `run --with`.
        namespace: The Metaflow namespace of the steps, or None.
        workflow_timeout_seconds: How long the run may take, from its start, or None.
    """

    tags: tuple[str, ...] = ()
    decospecs: tuple[str, ...] = ()
    namespace: str | None = None
    workflow_timeout_seconds: int | None = None

    def dagster_tags(self, deployed_tags: Iterable[str]) -> dict[str, str]:
        """The tags of a Dagster run with these options.

        Args:
            deployed_tags: The Metaflow tags that each run of the deployment has: in Dagster, a tag of the run hides
                one of the job that has the same key.
        """
        tags = {}
        if self.tags:
            tags[RUN_TAGS_TAG] = json.dumps(self.tags)
            tags.update(shown_tags([*deployed_tags, *self.tags]))
        if self.decospecs:
            tags[DECOSPECS_TAG] = json.dumps(self.decospecs)
        if self.namespace is not None:
            tags[NAMESPACE_TAG] = self.namespace
        if self.workflow_timeout_seconds is not None:
            tags[WORKFLOW_TIMEOUT_TAG] = tags[MAX_RUNTIME_TAG] = str(self.workflow_timeout_seconds)
        return tags

    @classmethod
    def of(cls, dagster_tags: Mapping[str, str]) -> RunOptions:
        """The options that tags hold.

        Args:
            dagster_tags: The tags of a Dagster run.

        Raises:
            ValueError: A tag has no such value as it has to have; names it, and says which.
        """
        return cls(
            tags=tuple(names_in(RUN_TAGS_TAG, dagster_tags.get(RUN_TAGS_TAG, ""))),
            decospecs=tuple(names_in(DECOSPECS_TAG, dagster_tags.get(DECOSPECS_TAG, ""))),
            namespace=dagster_tags.get(NAMESPACE_TAG),
            workflow_timeout_seconds=_seconds_in(WORKFLOW_TIMEOUT_TAG, dagster_tags.get(WORKFLOW_TIMEOUT_TAG, "")),
        )


def shown_tags(metaflow_tags: Iterable[str]) -> dict[str, str]:
    """Metaflow tags as tags of a Dagster run, which have a key and a value.

    `model:linear` becomes `metaflow.tag/model: linear`, and `nightly` becomes `metaflow.tag/nightly: true`.
    """
    shown: dict[str, list[str]] = {}
    for tag in dict.fromkeys(metaflow_tags):
        name, _, value = tag.partition(":")
        shown.setdefault(tag_key(METAFLOW_TAG_PREFIX, name), []).append(value or "true")
    return {key: ", ".join(values) for key, values in shown.items()}


def names_in(tag: str, text: str) -> list[str]:
    """The names that a tag of a Dagster run holds.

    Args:
        tag: The tag.
        text: Its value, a JSON list; or nothing, for none.

    Raises:
        ValueError: It is no such list.
    """
    try:
        names = json.loads(text.strip() or "[]")
    except ValueError:
        names = None
    if not isinstance(names, list):
        raise ValueError(f'The tag {tag} is a JSON list of names, such as ["alpha"], and not {text!r}.')
    return [str(name) for name in names]


def _seconds_in(tag: str, text: str) -> int | None:
    if not text.strip():
        return None
    if not text.strip().isdecimal() or int(text) < 1:
        raise ValueError(f"The tag {tag} is a number of seconds, at least 1, and not {text!r}.")
    return int(text)
