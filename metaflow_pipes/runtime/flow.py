"""The Metaflow flow behind a generated definitions file, and the commands that run its tasks."""

from __future__ import annotations

import os
import shlex
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaflow_pipes.io.store import READ_SETTINGS, ArtifactStore
from metaflow_pipes.locations import (
    LOCAL_DATASTORE_FOLDER,
    beside,
    logs_command,
    metadata_provider,
    metadata_type,
    run_folder,
    staleness,
)
from metaflow_pipes.names import ORIGIN_RUN_ID_TAG
from metaflow_pipes.runtime.code import CodePackage, CodePlace, FlowCode

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import dagster as dg

    from metaflow_pipes.file_format import CompilerVersion
    from metaflow_pipes.run_options import RunOptions
    from metaflow_pipes.runtime.assets.translator import DagsterMetaflowTranslator
    from metaflow_pipes.runtime.parameters import MetaflowParameter
    from metaflow_pipes.runtime.partitions import MetaflowPartitions
    from metaflow_pipes.runtime.steps import MetaflowStep

# Where Metaflow looks for its user, and whom it does not take for one (`metaflow.util.get_username`).
USER_VARIABLES = ("METAFLOW_USER", "SUDO_USER", "USERNAME", "USER")
NO_USERS = ("", "root")
DATATOOLS_FOLDER = "data"
# What runs the tasks, as their system tag `runtime:` says.
RUNTIME_VARIABLE, RUNTIME = "METAFLOW_RUNTIME_NAME", "dagster"


class MetaflowFlowWarning(UserWarning):
    """The flow file has gone, or is not the one that a definitions file was compiled from."""


@dataclass(frozen=True, eq=False)
class MetaflowFlow:
    """A Metaflow flow, as the compiler wrote it down.

    Attributes:
        name: The flow's name.
        file: The path of the flow file, relative to the definitions file's folder or absolute.
        definitions_file: The path of the generated file.
        working_directory: Where the steps run: where the flow was compiled, as a path like `file`.
        fingerprint: `sha256:` and the digest of the flow file when it was compiled.
        package: The flow's code package, from which workers fetch what is not beside the definitions file; or None.
        top_level_args: Metaflow's options before its command.
        datastore: The type of the datastore: `local`, `s3`, ...
        datastore_root: The root of the datastore; a relative path starts at the definitions file's folder.
        settings: `METAFLOW_*` variables for every step; they rank above the run's environment.
        user: The Metaflow user where the run's environment names none.
        tags: Metaflow tags of each run.
        step_env: Environment variables of all steps. A `dagster.EnvVar` is looked up in the environment of the run when
            a step starts.
        namespace: The Metaflow namespace of the steps; None is that of the production token, which is a setting.
        configs: The values of the `Config`s, as Metaflow's runner hands them to its tasks.
        parameters: The flow's parameters.
        partitions: The partitions of its job and its assets, and the parameters that they fill; None if it has none.
        log_level: The lowest level of the steps' `logging` records that Dagster's event log gets too: `DEBUG`, `INFO`,
            `WARNING`, `ERROR` or `CRITICAL`; None if it gets none.
        kubernetes: Where a step with `@kubernetes` runs: in the `pod` of its op, or in a `job` that Metaflow launches.
        workflow_timeout_seconds: How long a run may take, from its start; None is without limit.
        deployment: With `@project`, the name of project, branch and flow; else None.
        job: The name that the user gave the job (`create --name`), or None.
        steps: The flow's steps, each after those whose tasks it takes.
        translator: Says how steps become assets; None is `DagsterMetaflowTranslator`.
        depends_on: The assets of others that its first assets depend on, as `AssetKey.to_user_string` writes keys.
        automation: When Dagster materializes its assets by itself, as a whole; None is never.
        compiled_by: The version of metaflow-pipes that wrote the definitions file; None for release 0.1.
        compile_again: How the flow is compiled again, where no definitions file is written by `dagster create`: an
            entry of a `dg` project, or `load_flow_definitions`.
    """

    name: str
    file: str
    definitions_file: str
    working_directory: str
    fingerprint: str
    top_level_args: Sequence[str]
    datastore: str
    datastore_root: str
    user: str
    package: CodePackage | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    tags: Sequence[str] = ()
    step_env: Mapping[str, str] = field(default_factory=dict)
    namespace: str | None = None
    configs: Mapping[str, Any] = field(default_factory=dict)
    parameters: Sequence[MetaflowParameter] = ()
    partitions: MetaflowPartitions | None = None
    log_level: str | None = "WARNING"
    kubernetes: str = "job"
    workflow_timeout_seconds: int | None = None
    deployment: str | None = None
    job: str | None = None
    steps: Sequence[MetaflowStep] = ()
    translator: DagsterMetaflowTranslator | None = None
    depends_on: Sequence[str] = ()
    automation: dg.AutomationCondition | None = None
    compiled_by: CompilerVersion | None = None
    compile_again: str | None = None

    def __post_init__(self) -> None:
        problem = self.staleness()
        if problem is not None:
            warnings.warn(problem, MetaflowFlowWarning, stacklevel=3)

    def __getitem__(self, step: str) -> MetaflowStep:
        """A step by its name."""
        return next(candidate for candidate in self.steps if candidate.name == step)

    def with_steps_before(self, steps: Collection[str]) -> set[str]:
        """Some steps, by their names, and all that come before one of them."""
        found = set(steps)
        for step in reversed(self.steps):
            if step.name in found:
                found.update(step.upstream)
        return found

    @property
    def filled_parameters(self) -> tuple[str, ...]:
        """The names of the parameters that the key of a run's partition fills."""
        return () if self.partitions is None else self.partitions.filled

    def asset_specs(self) -> list[dg.AssetSpec]:
        """As `metaflow_pipes.runtime.asset_specs`, for definitions files of release 0.1."""
        from metaflow_pipes.runtime.assets.specs import asset_specs

        return asset_specs(self)

    @property
    def deployment_name(self) -> str:
        """The flow's name; with `@project`, that of project, branch and flow; with `create --name`, the job's.

        It tells the deployments of a flow apart: the default keys of its assets begin with it.
        """
        return self.deployment or self.job or self.name

    @property
    def path(self) -> Path:
        """The absolute path of the flow file."""
        return beside(self.definitions_file, self.file)

    @property
    def folder(self) -> str:
        """The absolute path of the folder where the steps run; the flow file's if the other is gone."""
        return str(run_folder(self.definitions_file, self.working_directory, self.path))

    @property
    def root(self) -> str:
        """The datastore's root: an absolute path or a URL."""
        is_local = self.datastore == "local"
        return str(beside(self.definitions_file, self.datastore_root)) if is_local else self.datastore_root

    @property
    def metadata(self) -> str:
        """The type of the metadata provider: `local`, `service`, ..."""
        return metadata_type(self.top_level_args)

    @property
    def store(self) -> ArtifactStore:
        """The place of its artifacts, for processes that know of a run only."""
        provider = metadata_provider(
            Path(self.folder),
            datastore=self.datastore,
            datastore_root=self.root,
            settings=self.settings,
            top_level_args=self.top_level_args,
        )
        names = [] if self.datastore == "local" else sorted(READ_SETTINGS & self.settings.keys())
        settings = {name: self.settings[name] for name in names}
        return ArtifactStore(self.datastore, self.root, provider, settings)

    @property
    def code(self) -> FlowCode:
        """The flow's code, which is to be provided before a step runs."""
        return FlowCode(
            flow=self.name,
            file=str(self.path),
            folder=self.folder,
            fingerprint=self.fingerprint,
            package=self.package,
            datastore=self.datastore,
            datastore_root=self.root,
            has_local_metadata=self.datastore != "local" and "--metadata=local" in self.top_level_args,
        )

    def at(self, place: CodePlace) -> MetaflowFlow:
        """The flow as its steps run it where its code was provided."""
        if place.file == str(self.path):
            return self
        settings = {**self.settings, **place.environment}
        return replace(self, file=place.file, working_directory=place.folder, settings=settings)

    def staleness(self) -> str | None:
        """The reason why its file no longer fits the flow file; None if it does, or has the code package."""
        if self.package is not None:
            return None
        folder = Path(self.folder)
        return staleness(self.name, self.path, self.fingerprint, self.definitions_file, folder, self.compile_again)

    def pool(self, step: str) -> str | None:
        """The Dagster pool of a step's op, by its name; None if it has none.

        Raises:
            dagster.DagsterInvalidDefinitionError: The translator and `create --pool` say different pools.
        """
        from metaflow_pipes.runtime.assets.translator import said_once

        given = self[step].pool
        if self.translator is None:
            return given
        said = self.translator.get_pool(self, self[step])
        return said_once(self, self[step], method="get_pool", said=said, option="--pool", given=given)

    def config_schema(self, *, is_optional: bool = False) -> dict[str, dg.Field]:
        """The run config of the start op: a field for each parameter.

        Args:
            is_optional: Whether the run config need not have those that have no default.
        """
        filled = self.filled_parameters
        return {p.name: p.field(is_optional=is_optional, is_filled=p.name in filled) for p in self.parameters}

    def environment(self, run_environment: Mapping[str, str]) -> dict[str, str]:
        """Variables of every step's environment, beyond the run's, that lead to the flow's datastore and metadata.

        Args:
            run_environment: The environment of the Dagster run, which can name the Metaflow user.
        """
        code = {} if self.package is None else self.package.environment(self.datastore, self.definitions_file)
        environment = {RUNTIME_VARIABLE: RUNTIME, **code, **self.settings}
        if not _named_users(run_environment):
            environment["METAFLOW_USER"] = self.user
        root = Path(self.root)
        if self.datastore == "local" and root.name == LOCAL_DATASTORE_FOLDER:
            environment["METAFLOW_DATASTORE_SYSROOT_LOCAL"] = str(root.parent)
            if "METAFLOW_DATATOOLS_LOCALROOT" not in run_environment:
                # where it is as long as that variable is not set: beside the runs
                folder = self.settings.get("METAFLOW_DATATOOLS_SUFFIX", DATATOOLS_FOLDER)
                environment["METAFLOW_DATATOOLS_LOCALROOT"] = str(root / folder)
        return environment

    def user_in(self, run_environment: Mapping[str, str]) -> str:
        """The Metaflow user of the steps.

        Args:
            run_environment: The environment of the Dagster run.
        """
        return next(iter(_named_users(run_environment)), self.user)

    def step_command(
        self,
        step: str,
        run_id: str,
        task_id: str,
        input_paths: Sequence[str],
        attempt: int,
        user_code_retries: int,
        options: RunOptions,
    ) -> list[str]:
        """The arguments of Metaflow's `step` command for one attempt of a task.

        Args:
            step: The step's name.
            run_id: The Metaflow run.
            task_id: The task, never an integer.
            input_paths: The tasks whose artifacts it takes, each `run_id/step/task_id`.
            attempt: The attempt, from 0.
            user_code_retries: How many retries run the user's code; in a later attempt `@catch` takes over.
            options: The options that hold for the run.
        """
        return [
            *self._top_level(options.decospecs),
            "step",
            step,
            *_task(run_id, task_id, options.tags),
            f"--input-paths={','.join(input_paths)}",
            f"--retry-count={attempt}",
            f"--max-user-code-retries={user_code_retries}",
            *([] if options.namespace is None else [f"--namespace={options.namespace}"]),
        ]

    def init_command(
        self,
        run_id: str,
        task_id: str,
        parameters: Mapping[str, Any],
        options: RunOptions,
        given: Collection[str] | None = None,
    ) -> list[str]:
        """The arguments of Metaflow's `init` command, without those before it: it stores a run's parameters.

        Args:
            run_id: The Metaflow run.
            task_id: The id of the `_parameters` task.
            parameters: The start op's run config.
            options: The options that hold for the run.
            given: The names of the parameters whose values it gives; None is all of them.
        """
        arguments = [
            argument
            for parameter in self.parameters
            if given is None or parameter.name in given
            for argument in parameter.arguments(parameters.get(parameter.name))
        ]
        return [*_task(run_id, task_id, options.tags), *arguments]

    def logs_command(self, task: str) -> str:
        """The shell command that shows the logs of a task, `run_id/step/task_id`, in the folder of the steps."""
        return logs_command(
            task,
            self.path,
            Path(self.folder),
            datastore=self.datastore,
            datastore_root=self.root,
            settings=self.settings,
            top_level_args=self.top_level_args,
        )

    def resume_advice(self, run_id: str) -> str:
        """The advice how to go on with a run where it ended: the end of a sentence.

        Args:
            run_id: The Metaflow run.
        """
        if self.compile_again is not None:
            return f"a new run of its job that has the tag {ORIGIN_RUN_ID_TAG}: {run_id}"
        return f"this command in {self.folder}:\n{self._resume_command(run_id)}"

    def _resume_command(self, run_id: str) -> str:
        file, definitions = (os.path.relpath(path, self.folder) for path in (self.path, self.definitions_file))
        origin = f"--origin-run-id={run_id}"
        return shlex.join(["python", file, "dagster", "resume", origin, f"--definitions-file={definitions}"])

    def _top_level(self, decospecs: Sequence[str]) -> list[str]:
        return [
            str(self.path),
            "--quiet",
            "--no-pylint",
            # as `--with` behind `run`, those of the run rank above those of the deployment
            *(f"--with={spec}" for spec in decospecs),
            *self.top_level_args,
            f"--datastore-root={self.root}",
            "--with=dagster_internal",
        ]


def _task(run_id: str, task_id: str, tags: Sequence[str]) -> list[str]:
    return [f"--run-id={run_id}", f"--task-id={task_id}", *(f"--tag={tag}" for tag in tags)]


def _named_users(run_environment: Mapping[str, str]) -> list[str]:
    """The users that an environment names, in the order in which Metaflow asks for them."""
    users = [run_environment.get(variable, "") for variable in USER_VARIABLES]
    return [user for user in users if user not in NO_USERS]
