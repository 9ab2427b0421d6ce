"""The code package of a flow: built by Metaflow, and stored in the flow's datastore under its digest.

Workers that do not have the flow file fetch it, and Metaflow's client shows it as `Run.code`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster_pipes
from metaflow.includefile import IncludeFile
from metaflow.package import MetaflowPackage
from metaflow.parameters import deploy_time_eval

from metaflow_pipes.compile.flow_model import PackageModel
from metaflow_pipes.errors import CompileError
from metaflow_pipes.file_format import FIRST_LINE
from step_wrapper.companions import PACKAGED_MODULES

if TYPE_CHECKING:
    from collections.abc import Generator

    from metaflow_pipes.compile.flow_model import ParameterModel
    from metaflow_pipes.compile.job_model import JobModel


# How long it may take to build and store a package, before that is said, and from then on. Metaflow's own retries of a
# server that can't be reached take more than an hour.
SILENT_SECONDS = 5
STORE_SECONDS = 300


def packaged(job: JobModel, state: Any) -> JobModel:
    """A job whose flow has its code package, and the defaults of its files, stored in the datastore; if it asks for it.

    Args:
        job: The job, which nothing else can refuse any more.
        state: Metaflow's `CliState` of the process that has loaded the flow.

    Raises:
        CompileError: They can't be stored; says what to do.
    """
    flow = job.flow
    is_wanted = flow.datastore != "local" if job.options.package is None else job.options.package
    if not is_wanted:
        return job
    try:
        package = _stored(state)
        included = {
            parameter.name: deploy_time_eval(parameter.kwargs["default"])
            for _, parameter in state.flow._get_parameters()
            if isinstance(parameter, IncludeFile)
            and parameter.kwargs.get("default") is not None
            and parameter.name not in job.options.parameter_defaults
        }
    except Exception as error:  # storages raise their own
        raise CompileError(
            f"The code package of flow *{flow.name}* can't be stored in the {flow.datastore} datastore "
            f"{flow.datastore_root}: {str(error) or type(error).__name__}. Look whether this machine reaches it, and "
            "may write there; or compile the flow with --no-package for workers that all have the flow file."
        ) from None
    if Path(flow.file).name not in package.files:
        raise CompileError(
            f"Metaflow leaves {flow.file}, the file of flow *{flow.name}*, out of its code package. Add its suffix to "
            "--package-suffixes, or compile the flow with --no-package."
        )
    parameters = tuple(_with_stored_default(parameter, included) for parameter in flow.parameters)
    return replace(job, flow=replace(flow, package=package.model, parameters=parameters))


class _Package(MetaflowPackage):
    """Metaflow's code package of a flow, without definitions files: one has the digest of the package in it."""

    def _user_code_tuples(self) -> Generator[tuple[str, str], None, None]:
        for path, name in super()._user_code_tuples():
            if not _is_definitions_file(path):
                yield path, name
        # for steps on other systems, where nobody hears what they report, and nothing fails because of that
        folder = Path(dagster_pipes.__file__).parent
        for file in sorted(folder.rglob("*.py")):
            yield str(file), f"{PACKAGED_MODULES}/{file.relative_to(folder.parent)}"

    @property
    def model(self) -> PackageModel:
        url, sha = self.package_url(), self.package_sha()
        assert url is not None
        assert sha is not None
        return PackageModel(url, sha, self.package_metadata)

    @property
    def files(self) -> set[str]:
        """The names of the user's files in it."""
        return {name for _, name in self.user_tuples()}


def _stored(state: Any) -> _Package:
    package = _Package(
        state.flow,
        state.environment,
        # that it is large, but not why it failed, which the error says
        lambda text, **_: state.echo_always(text) if text.startswith("Warning") else None,
        suffixes=state.package_suffixes,
        flow_datastore=state.flow_datastore,
    )
    if package.package_url(timeout=SILENT_SECONDS) is None:
        state.echo_always(
            f"The code package is being stored in {state.flow_datastore.datastore_root} ...", no_bold=True
        )
        if package.package_url(timeout=STORE_SECONDS) is None:
            raise TimeoutError(f"it has taken longer than {SILENT_SECONDS + STORE_SECONDS} s")
    return package


def _is_definitions_file(path: str) -> bool:
    if not path.endswith(".py"):
        return False
    with open(path, "rb") as file:  # noqa: PTH123 - a string
        return file.readline().startswith(FIRST_LINE.encode())


def _with_stored_default(parameter: ParameterModel, included: dict[str, str]) -> ParameterModel:
    return replace(parameter, default=included[parameter.name]) if parameter.name in included else parameter
