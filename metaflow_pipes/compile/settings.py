"""The settings of Metaflow's configuration that go into a definitions file, and its user: a part of stage 1."""

from __future__ import annotations

import os

from metaflow import current
from metaflow.metaflow_config_funcs import config_values
from metaflow.util import get_username

from metaflow_pipes.compile.credentials import looks_like_credential

# The settings of the Metaflow configuration that lead a step to the datastore and the metadata of the flow's
# other steps. What the local datastore needs is not among them: it is found from the definitions file.
BAKED_SETTINGS = frozenset(
    f"METAFLOW_{name}"
    for name in (
        "DEFAULT_DATASTORE",
        "DEFAULT_METADATA",
        "DEFAULT_AWS_CLIENT_PROVIDER",
        "DEFAULT_AZURE_CLIENT_PROVIDER",
        "DEFAULT_GCP_CLIENT_PROVIDER",
        "DEFAULT_SECRETS_BACKEND_TYPE",
        "DEFAULT_SECRETS_ROLE",
        "DATASTORE_SYSROOT_S3",
        "DATASTORE_SYSROOT_AZURE",
        "DATASTORE_SYSROOT_GS",
        "DATATOOLS_SUFFIX",
        "DATATOOLS_S3ROOT",
        "DATATOOLS_AZUREROOT",
        "DATATOOLS_GSROOT",
        "CARD_S3ROOT",
        "CARD_AZUREROOT",
        "CARD_GSROOT",
        "S3_ENDPOINT_URL",
        "S3_VERIFY_CERTIFICATE",
        "S3_SERVER_SIDE_ENCRYPTION",
        "AZURE_STORAGE_BLOB_SERVICE_ENDPOINT",
        "SERVICE_URL",
        "SERVICE_INTERNAL_URL",
        "SERVICE_VERSION_CHECK",
        "UI_URL",
        "AWS_SECRETS_MANAGER_DEFAULT_REGION",
        "AWS_SECRETS_MANAGER_DEFAULT_ROLE",
        "GCP_SECRET_MANAGER_PREFIX",
        "AZURE_KEY_VAULT_PREFIX",
    )
)


# Settings that carry keys, tokens or headers. A step takes them from the run's own environment.
SECRET_SETTINGS = frozenset(
    f"METAFLOW_{name}"
    for name in (
        "SERVICE_AUTH_KEY",
        "SERVICE_HEADERS",
        "DATATOOLS_CLIENT_PARAMS",
        "DATATOOLS_SESSION_VARS",
        "AWS_SANDBOX_API_KEY",
    )
)


def username() -> str:
    """Metaflow's user."""
    return str(get_username() or "dagster")


def read_settings() -> tuple[dict[str, str], tuple[str, ...]]:
    """The settings that go into the file, and the names of those in use that must not."""
    baked: dict[str, str] = {}
    withheld: list[str] = []
    for name, value in config_values():
        if name in SECRET_SETTINGS or (name in BAKED_SETTINGS and looks_like_credential(name, value)):
            withheld.append(name)
        elif name in BAKED_SETTINGS:
            baked[name] = value
    if current.get("project_name"):
        # the user's branch of a @project stays that of whoever compiled, as with Metaflow's other schedulers
        baked["METAFLOW_OWNER"] = os.environ.get("METAFLOW_OWNER") or username()
    return dict(sorted(baked.items())), tuple(sorted(withheld))
