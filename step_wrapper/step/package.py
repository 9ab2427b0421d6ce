"""The code package of a run: that of its deployment, or one that its first step builds, and all others use."""

from __future__ import annotations

import fcntl
import inspect
import os
import tempfile
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from metaflow.metaflow_environment import MetaflowEnvironment
from metaflow.package import MetaflowPackage
from metaflow.system_context import system_context

if TYPE_CHECKING:
    from collections.abc import Iterator

    from step_wrapper.launch import Launch

# Beside the run's parameters, whose task all steps of a run know.
_PARAMETERS_STEP = "_parameters"
_TASK = "code"
_RECORD = "package.json"


class StoredPackage(NamedTuple):
    """A code package in the datastore, as Metaflow's hooks use a `MetaflowPackage`.

    Attributes:
        flow_datastore: The flow's datastore.
        url: Where it is.
        sha: Its digest, which is the key that the datastore knows it by.
        package_metadata: How it is packed.
    """

    flow_datastore: Any
    url: str
    sha: str
    package_metadata: str

    @property
    def blob(self) -> bytes:
        """Its content."""
        _, blob = next(iter(self.flow_datastore.load_data([self.sha])))
        return blob

    def blob_with_timeout(self, timeout: float | None = None) -> bytes:  # noqa: ARG002 - the signature is Metaflow's
        """Its content."""
        return self.blob

    def package_url(self, timeout: float | None = None) -> str:  # noqa: ARG002 - as above
        """Its address."""
        return self.url

    def package_sha(self, timeout: float | None = None) -> str:  # noqa: ARG002 - as above
        """Its digest."""
        return self.sha

    def extract_into(self, folder: str, content_types: Any) -> None:
        """Unpack it.

        Args:
            folder: The folder.
            content_types: The kinds of content that are unpacked (`metaflow.packaging_sys.ContentType`).
        """
        import io

        kinds = getattr(content_types, "value", content_types)
        MetaflowPackage.cls_extract_into(self.package_metadata, io.BytesIO(self.blob), folder, kinds)

    def get_post_extract_env_vars(self, package_metadata: str, folder: str) -> dict[str, str]:
        """The variables with which an unpacked package is used, as of `MetaflowPackage`."""
        return MetaflowPackage.get_post_extract_env_vars(package_metadata, folder)


def package_of_run(launch: Launch, state: Any) -> StoredPackage:
    """The code package for the hooks of a step.

    Args:
        launch: The attempt.
        state: Metaflow's `CliState`.

    Returns:
        The package.

    Raises:
        MetaflowException: A decorator can't be used here, or the package can't be built.
    """
    datastore = state.flow_datastore
    stored = _of_deployment(launch) or _recorded(launch, datastore)
    # of the processes of a machine, one builds, or makes an environment, and the others find it
    with _locked() if stored is None or state.environment.TYPE != MetaflowEnvironment.TYPE else nullcontext():
        stored = stored or _recorded(launch, datastore)
        if stored is None:
            package = MetaflowPackage(state.flow, state.environment, state.echo, suffixes=state.package_suffixes)
            url, sha = datastore.save_data([package.blob], len_hint=1)[0]
            stored = {"url": url, "sha": sha, "package_metadata": package.package_metadata}
            # of several machines that build it at once, each has built the same
            _record(launch, datastore, "w").save_metadata({_RECORD: stored}, add_attempt=False)
        else:
            init = state.environment.init_environment
            of_step = {"only_steps": [launch.step]} if "only_steps" in inspect.signature(init).parameters else {}
            init(state.echo, **of_step)
    found = StoredPackage(datastore, **stored)
    system_context._update(package=found)
    return found


@contextmanager
def _locked() -> Iterator[None]:
    """Be the only process of this user on this machine that prepares what steps need."""
    path = Path(tempfile.gettempdir(), f"metaflow-pipes-{os.getuid()}.lock")
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _recorded(launch: Launch, datastore: Any) -> dict[str, str] | None:
    return _record(launch, datastore, "r").load_metadata([_RECORD], add_attempt=False)[_RECORD]


def _of_deployment(launch: Launch) -> dict[str, str] | None:
    """The package that `create` has stored, as the environment has it for Metaflow; None if it has stored none."""
    url, sha = os.environ.get("METAFLOW_CODE_URL", ""), os.environ.get("METAFLOW_CODE_SHA", "")
    # a step's code may have started this run, and the package be its own
    if not sha or not url.startswith(f"{launch.datastore_root}/{launch.flow}/"):
        return None
    return {"url": url, "sha": sha, "package_metadata": os.environ["METAFLOW_CODE_METADATA"]}


def _record(launch: Launch, datastore: Any, mode: str) -> Any:
    return datastore.get_task_datastore(
        launch.run_id, _PARAMETERS_STEP, _TASK, attempt=0, mode=mode, allow_not_done=mode == "r"
    )
