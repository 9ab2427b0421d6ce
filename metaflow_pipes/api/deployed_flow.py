"""Deployed flows and triggered runs of Metaflow's Deployer API, for Dagster."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from metaflow.client.core import get_metadata
from metaflow.exception import MetaflowException, MetaflowNotFound
from metaflow.runner.deployer import DeployedFlow, Deployer, TriggeredRun, generate_fake_flow_file_contents
from metaflow.runner.utils import get_lower_level_group, handle_timeout, make_process_error_message, temporary_fifo

from metaflow_pipes.api.command_options import command_options
from metaflow_pipes.cli.command import options_beside
from metaflow_pipes.cli.launch import LAUNCH_FILE_OPTION, resume, trigger
from metaflow_pipes.deployment.definitions_file import read_deployment
from metaflow_pipes.deployment.lookup import find_deployment
from metaflow_pipes.deployment.registry import registered
from metaflow_pipes.errors import DeploymentError
from metaflow_pipes.names import URL_VARIABLE
from metaflow_pipes.runs.connect import connect
from metaflow_pipes.runs.run_config import python_name
from metaflow_pipes.runs.service import RunStatus, end_run, find_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import metaflow

    from metaflow_pipes.deployment.definitions_file import Deployment
    from metaflow_pipes.runs.service import DagsterService, RunRecord


COMMANDS: dict[str, Any] = {"trigger": trigger, "resume": resume}


class DagsterTriggeredRun(TriggeredRun):
    """A run that was launched on Dagster.

    Each of its attributes and methods raises `metaflow_pipes.errors.DeploymentError` if that Dagster can't be asked.
    """

    def __init__(self, deployer: Any, content: str):
        super().__init__(deployer, content)
        attributes = json.loads(content)
        self._webserver: str | None = attributes.get("webserver")
        self.dagster_run_id: str = attributes["dagster_run_id"]

    @cached_property
    def _service(self) -> DagsterService:
        return connect(self._webserver, self.deployer.env_vars)

    def _record(self) -> RunRecord | None:
        return self._service.run(self.dagster_run_id)

    @property
    def run(self) -> metaflow.Run | None:
        """The Metaflow run, where the deployed flow stores it; None until its start step has begun."""
        from metaflow import Run

        try:
            return Run(self.pathspec, _namespace_check=False, _current_metadata=self.metadata_for_flow)
        except MetaflowNotFound:
            return None

    def wait_for_run(self, check_interval: float = 1, timeout: float | None = None) -> metaflow.Run:
        """Wait until `run` is there.

        Args:
            check_interval: How often to ask, in seconds.
            timeout: How long to wait at most, in seconds; None for without end.

        Raises:
            TimeoutError: It is not there by then.
            RuntimeError: The run has ended before its start step began, so there will be none.
        """
        give_up_at = None if timeout is None else time.monotonic() + timeout
        while True:
            is_running = self.is_running  # asked first: the run may begin and end between the two
            run = self.run
            if run is not None:
                return run
            if not is_running:
                raise RuntimeError(f"Run {self.pathspec} ended before its start step began: it is {self.status}.")
            if give_up_at is not None and time.monotonic() > give_up_at:
                raise TimeoutError(f"Run {self.pathspec} did not begin within {timeout} s: it is {self.status}.")
            time.sleep(check_interval)

    @property
    def status(self) -> str | None:
        """PENDING, RUNNING, SUCCEEDED, FAILED or TERMINATED; None if Dagster has deleted the run.

        LOST? is a run that has not ended as far as Dagster knows, but whose processes are not found on this host: they
        were killed, or can't be seen from here. `terminate()` ends it.
        """
        record = self._record()
        return None if record is None else record.status.value

    @property
    def is_running(self) -> bool:
        """Whether the run has not ended, as far as that can be seen: it is not lost for certain, either."""
        record = self._record()
        return record is not None and not record.is_over

    @property
    def dagster_url(self) -> str:
        """The run's page in the Dagster UI; without a webserver, where `dagster dev` shows it once it is open."""
        return self._service.url(self.dagster_run_id)

    def wait_for_completion(self, check_interval: float = 1, timeout: float | None = None) -> None:
        """Wait until the run has ended, however it ends.

        Args:
            check_interval: How often to ask, in seconds.
            timeout: How long to wait at most, in seconds; None for without end.

        Raises:
            TimeoutError: The run has not ended by then.
        """
        give_up_at = None if timeout is None else time.monotonic() + timeout
        while self.is_running:
            if give_up_at is not None and time.monotonic() > give_up_at:
                raise TimeoutError(f"Run {self.pathspec} did not complete within {timeout} s: it is {self.status}.")
            time.sleep(check_interval)

    def terminate(self) -> bool:
        """End the run.

        Returns:
            Whether it has ended by that, or is about to; False if it had ended before, or can't be ended.
        """
        record = self._record()
        if record is None or record.status.is_finished:
            return False
        try:
            ended = end_run(self._service, record)
        except DeploymentError as error:
            print(error, file=sys.stderr)
            return False
        return ended.status in (RunStatus.TERMINATED, RunStatus.RUNNING, RunStatus.PENDING)


class DagsterDeployedFlow(DeployedFlow):
    """A flow that is deployed to Dagster: its definitions file."""

    TYPE: ClassVar[str | None] = "dagster"

    @property
    def id(self) -> str:
        """The id for `DeployedFlow.from_deployment`, in any process: the path of its definitions file."""
        return self.definitions_file

    @property
    def definitions_file(self) -> str:
        """The absolute path of the definitions file."""
        return self.deployer.additional_info["definitions_file"]

    @property
    def production_token(self) -> str | None:
        """The production token of the deployed flow.

        Raises:
            MetaflowException: The deployment was deleted.
        """
        return self._deployment().production_token

    def _deployment(self) -> Deployment:
        try:
            return read_deployment(self.definitions_file)
        except DeploymentError as error:
            raise MetaflowException(str(error)) from None

    @classmethod
    def from_deployment(cls, identifier: str, metadata: str | None = None) -> DagsterDeployedFlow:
        """The deployed flow of a name.

        Args:
            identifier: The name of the job, or the path of its definitions file: `name` or `id` of a deployed flow.
            metadata: The metadata provider of its runs, such as `local@/folder`; by default that of this process.

        Raises:
            MetaflowException: There is no such deployment.
        """
        try:
            return cls._of(find_deployment(identifier), metadata)
        except DeploymentError as error:
            raise MetaflowException(str(error)) from None

    @classmethod
    def list_deployed_flows(cls, flow_name: str | None = None) -> Iterator[DagsterDeployedFlow]:
        """The deployed flows, the latest first.

        Args:
            flow_name: Only those of this flow.
        """
        for deployment in registered(flow_name):
            yield cls._of(deployment, None)

    @classmethod
    def get_triggered_run(cls, identifier: str, run_id: str, metadata: str | None = None) -> DagsterTriggeredRun:
        """A run of a deployed flow.

        Args:
            identifier: As for `from_deployment`.
            run_id: The Metaflow run id, `dagster-...`, or the id of a Dagster run.
            metadata: As for `from_deployment`.

        Raises:
            MetaflowException: There is no such deployment, or no such run.
        """
        deployed = cls.from_deployment(identifier, metadata)
        try:
            service = connect(None, deployed.deployer.env_vars)
            record = find_run(service, deployed.flow_name, run_id)
        except DeploymentError as error:
            raise MetaflowException(str(error)) from None
        content = {
            "name": deployed.name,
            "metadata": deployed.deployer.metadata,
            "pathspec": record.pathspec,
            "dagster_run_id": record.dagster_run_id,
            "webserver": deployed.deployer.env_vars.get(URL_VARIABLE),
        }
        return DagsterTriggeredRun(deployer=deployed.deployer, content=json.dumps(content))

    @classmethod
    def _of(cls, deployment: Deployment, metadata: str | None) -> DagsterDeployedFlow:
        """A deployed flow by what its definitions file says, without importing the flow."""
        # parameters are checked by what the definitions file says of them
        contents = generate_fake_flow_file_contents(deployment.flow_name, {})
        folder = tempfile.TemporaryDirectory(prefix="metaflow-deployed-")
        flow_file = Path(folder.name, f"{deployment.flow_name.lower()}.py")
        flow_file.write_text(contents, encoding="utf-8")
        # Metaflow gives the class a method for each deployer
        deployer: Any = getattr(Deployer(str(flow_file)), "dagster")()  # noqa: B009
        deployer.folder = folder  # it is deleted with the deployer
        deployer.name = deployment.name
        deployer.flow_name = deployment.flow_name
        deployer.metadata = metadata or deployment.metadata_provider or get_metadata()
        deployer.additional_info = {"definitions_file": str(deployment.definitions_file)}
        return cls(deployer=deployer)

    def trigger(self, **kwargs: Any) -> DagsterTriggeredRun:
        """Launch a run.

        Args:
            kwargs: The flow's parameters, in the types that they have in the flow, and options of `trigger`: `tags`,
                `decospecs`, `user_namespace` and `workflow_timeout` are as for `create`, for this run alone.

        Raises:
            MetaflowException: The deployment was deleted.
            RuntimeError: The run could not be launched; the message says why.
            TypeError: An option's value is of another type; the message names both.
            ValueError: The flow has no such parameter, and the command no such option.
        """
        return self._launch("trigger", kwargs)

    def run(self, **kwargs: Any) -> DagsterTriggeredRun:
        """The same as `trigger`."""
        return self.trigger(**kwargs)

    def resume(self, origin_run_id: str, step_to_rerun: str | None = None, **kwargs: Any) -> DagsterTriggeredRun:
        """Launch a run that goes on from an earlier one: what that has done is cloned.

        Args:
            origin_run_id: The Metaflow run to go on from, on Dagster or by Metaflow's own `run`.
            step_to_rerun: The step that runs again, with all below it; None for what has failed.
            kwargs: Parameters whose values are not those of that run, and options of `resume`, as for
                `trigger`.

        Raises:
            MetaflowException: The deployment was deleted.
            RuntimeError: The run could not be launched; the message says why.
            TypeError: An option's value is of another type; the message names both.
            ValueError: The flow has no such parameter, and the command no such option.
        """
        return self._launch("resume", {**kwargs, "origin_run_id": origin_run_id, "step_to_rerun": step_to_rerun})

    def delete(self, authorize: str | None = None) -> bool:
        """Delete the deployment; its runs are not affected.

        Args:
            authorize: The production token, which is needed if another user has deployed it.

        Returns:
            Whether it could be deleted.
        """
        token = [] if authorize is None else [f"--authorize={authorize}"]
        process = self._start("delete", f"--definitions-file={self.definitions_file}", *token)
        process.sync_wait()
        return process.process.returncode == 0

    def _launch(self, command: str, kwargs: Mapping[str, Any]) -> DagsterTriggeredRun:
        parameters = [parameter.name for parameter in self._deployment().parameters]
        given = {n: value for n, value in kwargs.items() if n in parameters or n in map(python_name, parameters)}
        names = {
            option.name: name
            for name, option in options_beside(COMMANDS[command].original_params, parameters).items()
            if not getattr(option, "hidden", False)
        }
        unknown = set(kwargs) - set(given) - set(names)
        if unknown:
            known = f"its parameters are: {', '.join(parameters)}" if parameters else "it has no parameters"
            raise ValueError(f"Flow {self.flow_name} has no parameter {', '.join(sorted(unknown))}: {known}.")
        options = {names[name]: value for name, value in kwargs.items() if name not in given and value is not None}
        options = {"definitions_file": self.definitions_file, **command_options(COMMANDS[command], options)}
        with temporary_fifo() as (attribute_file_path, attribute_file_fd), tempfile.TemporaryDirectory() as folder:
            launch = {**options, "deployer_attribute_file": attribute_file_path, "parameters": given}
            launch_file = Path(folder, "launch.json")
            launch_file.write_text(json.dumps(launch), encoding="utf-8")
            process = self._start(command, f"{LAUNCH_FILE_OPTION}={launch_file}")
            content = _attributes(attribute_file_fd, process, self.deployer.file_read_timeout)
            process.sync_wait()
            if process.process.returncode == 0:
                return DagsterTriggeredRun(deployer=self.deployer, content=content)
        raise RuntimeError(
            f"Error: could not {command} {self.name} on {self.deployer.TYPE} for {self.definitions_file}"
        )

    def _start(self, command: str, *arguments: str) -> Any:
        """Start a command of `python flow.py dagster`, as Metaflow's deployers do.

        Its arguments are none of that API's, which would ask for the flow's required parameters among them.
        """
        deployer = self.deployer
        api: Any = deployer.api
        # there, as for `create`: Metaflow reads the flow's configs here, and their paths are relative to that folder
        with _in_folder(deployer.cwd):
            group: Any = get_lower_level_group(api, deployer.top_level_kwargs, "dagster", deployer.deployer_kwargs)
            program = group.execute()
        pid = deployer.spm.run_command(
            [sys.executable, *program, command, *arguments],
            env=deployer.env_vars,
            cwd=deployer.cwd,
            show_output=deployer.show_output,
        )
        return deployer.spm.get(pid)


def _attributes(attribute_file_fd: int, process: Any, timeout: int) -> str:
    """The text that a command writes for the Deployer.

    Raises:
        RuntimeError: It has ended without, or does not write in time; the message says what it has shown.
    """
    try:
        return handle_timeout(attribute_file_fd, process, timeout)
    except RuntimeError as error:
        if process.process.poll() is None:
            raise
        # Metaflow reads the log files at once, while its threads may still copy into them what the command has said
        process.sync_wait()
        raise RuntimeError(make_process_error_message(process)) from error.__cause__


@contextlib.contextmanager
def _in_folder(folder: str) -> Iterator[None]:
    """Work in a folder, also if it fails: Metaflow's `with_dir` would stay there then."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
