"""The place of a Metaflow run's artifacts, as the materializations of its assets tell it to other processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    from collections.abc import Mapping

# The metadata of a materialization that say it: the task's or step's pathspec; of a step with several tasks, how many
# those are; and the store.
PATHSPEC = "pathspec"
TASKS = "tasks"
STORE = "metaflow/store"

# The settings of Metaflow by which its client reaches a datastore that is not local. None of them is a secret.
READ_SETTINGS = frozenset(
    f"METAFLOW_{name}"
    for name in (
        "AZURE_STORAGE_BLOB_SERVICE_ENDPOINT",
        "DEFAULT_AWS_CLIENT_PROVIDER",
        "DEFAULT_AZURE_CLIENT_PROVIDER",
        "DEFAULT_GCP_CLIENT_PROVIDER",
        "S3_ENDPOINT_URL",
        "S3_VERIFY_CERTIFICATE",
    )
)


@dataclass(frozen=True)
class ArtifactStore:
    """The datastore of a flow, and its metadata provider.

    Attributes:
        datastore: The type of the datastore: `local`, `s3`, ...
        root: Its root: an absolute path or a URL.
        metadata_provider: The metadata provider as `metaflow.metadata` takes it, or None for the process's own.
        settings: The `METAFLOW_*` settings by which the datastore is reached.
    """

    datastore: str
    root: str
    metadata_provider: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)

    def as_metadata(self) -> dict[str, dg.MetadataValue]:
        """The metadata of a materialization that name it."""
        known = {
            "datastore": self.datastore,
            "root": self.root,
            "metadata": self.metadata_provider,
            "settings": dict(self.settings),
        }
        return {STORE: dg.MetadataValue.json({name: value for name, value in known.items() if value})}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> ArtifactStore | None:
        """The inverse of `as_metadata`; None of other metadata."""
        value = metadata.get(STORE)
        known = value.data if isinstance(value, dg.JsonMetadataValue) else None
        if not isinstance(known, dict) or not {"datastore", "root"} <= known.keys():
            return None
        return cls(known["datastore"], known["root"], known.get("metadata"), known.get("settings") or {})
