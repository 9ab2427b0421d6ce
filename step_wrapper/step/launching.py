"""The launch of a step as its decorators want it, by the hooks of Metaflow's own runtime.

`@kubernetes` and `@batch` have a step run on another system, `@conda` and `@pypi` by another interpreter, and what
extensions bring does one or the other: all change the command that would run the step, which `metaflow.runtime` hands
them. Here the step's own process does so, and becomes the command that they give.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from metaflow import namespace
from metaflow.exception import MetaflowException
from metaflow.runtime import CLIArgs, Task
from metaflow.system_context import ExecutionPhase, system_context

from metaflow_extensions.metaflow_pipes.plugins.given import PARAMETERS_VARIABLE, TRIGGERS_VARIABLE
from step_wrapper import processes
from step_wrapper.control import HANDS_OVER
from step_wrapper.handover import TRAMPOLINE_VARIABLE, Handover
from step_wrapper.logs import flush_output
from step_wrapper.step.hooks import KNOWN, own_interpreter
from step_wrapper.step.package import package_of_run

if TYPE_CHECKING:
    from collections.abc import Iterable

    from step_wrapper.launch import Launch
    from step_wrapper.step.running import RunningTask

# Metaflow's own name of the command that runs a step here.
_HERE = ["step"]
_PIPES_PREFIX = "DAGSTER_PIPES_"


def ask_hooks_first(task: RunningTask, context: Any) -> None:
    """See to it that Metaflow's `step` command is not run here, if the step's decorators want another one.

    Args:
        task: The attempt that runs in this process.
        context: The click context of Metaflow's command line.
    """
    command = context.find_root().command.get_command(context, "step")
    run_here = command.callback

    def launch(*arguments: Any, **options: Any) -> Any:
        phase = system_context.phase
        args, has_changed = _asked_of_hooks(task, context.obj)
        if has_changed:
            _become(task, context, args)
        system_context._update(phase=phase)
        os.environ.update(args.get_env())
        return run_here(*arguments, **options)

    command.callback = launch


class _Attempt(Task):
    """A task of Metaflow's runtime, at any of its attempts."""

    def __init__(self, number: int, *arguments: Any, **options: Any):
        self._number = number
        super().__init__(*arguments, **options)

    def new_attempt(self) -> None:
        """Open the attempt's datastore."""
        self.retries = self._number
        super().new_attempt()


def _asked_of_hooks(task: RunningTask, state: Any) -> tuple[CLIArgs, bool]:
    """The command of the step as its decorators have it, and whether they have changed it."""
    launch = task.launch
    decorators = getattr(state.flow, launch.step).decorators
    state.metadata.add_sticky_tags(tags=launch.tags)
    state.metadata.register_run_id(launch.run_id)
    given = launch.option("--namespace")
    if given is not None:
        namespace(given)
    system_context._update(phase=ExecutionPhase.LAUNCH, run_id=launch.run_id)
    package = package_of_run(launch, state)
    for step in state.flow:
        for decorator in step.decorators:
            if decorator.runtime_init_ctx is not None:
                decorator.runtime_init_ctx(step.__name__)
            else:
                decorator.runtime_init(state.flow, state.graph, package, launch.run_id)
    attempt = _attempt(launch, state, decorators)
    args = CLIArgs(attempt)
    origin = launch.option("--clone-run-id")
    if origin is not None:
        args.command_options["clone-run-id"] = origin
    system_context._update(
        task_id=attempt.task_id,
        split_index=attempt.split_index,
        input_paths=attempt.input_paths,
        ubf_context=attempt.ubf_context,
        retry_count=launch.attempt,
        max_user_code_retries=launch.user_code_retries,
    )
    has_changed = False
    for decorator in decorators:
        before = args.get_args()
        if decorator.runtime_step_cli_ctx is not None:
            decorator.runtime_step_cli_ctx(launch.step, args)
        else:
            decorator.runtime_step_cli(args, launch.attempt, launch.user_code_retries, attempt.ubf_context)
        has_changed = has_changed or (not isinstance(decorator, KNOWN) and args.get_args() != before)
    if has_changed and attempt.ubf_context is not None:
        raise MetaflowException(
            f"Step *{launch.step}* starts parallel tasks (num_parallel), which can't be launched by a decorator on "
            "another system, or with another interpreter, on Dagster."
        )
    interpreter = own_interpreter(state.environment, launch.step)
    if interpreter is not None and not has_changed:
        has_changed = True
        args.entrypoint[:1] = interpreter
        args.env["PYTHONPATH"] = os.pathsep.join(filter(None, [_lent(task.folder), os.environ.get("PYTHONPATH")]))
    if launch.configs:
        args.top_level_options["local-config-file"] = launch.option("--local-config-file", sys.argv[1:])
    return args, has_changed


def _lent(folder: Path) -> str:
    """A folder with the modules that a step's interpreter needs of this one, which it may not have."""
    import dagster_pipes

    import metaflow_extensions.metaflow_pipes as extension

    lent = folder / "lent"
    for module, name in ((dagster_pipes, "dagster_pipes"), (extension, "metaflow_extensions/metaflow_pipes")):
        (lent / name).parent.mkdir(parents=True, exist_ok=True)
        (lent / name).symlink_to(Path(str(module.__file__)).parent)
    return str(lent)


def _attempt(launch: Launch, state: Any, decorators: Iterable[Any]) -> _Attempt:
    split_index, size = launch.option("--split-index"), launch.option("--num-parallel")
    return _Attempt(
        launch.attempt,
        state.flow_datastore,
        state.flow,
        launch.step,
        launch.run_id,
        state.metadata,
        state.environment,
        state.entrypoint,
        state.event_logger,
        state.monitor,
        input_paths=launch.input_paths,
        decos=list(decorators),
        logger=state.logger,
        split_index=None if split_index is None else int(split_index),
        ubf_context=launch.option("--ubf-context"),
        ubf_iter=None if size is None else types.SimpleNamespace(num_parallel=int(size)),
        task_id=launch.task_id,
    )


def _become(task: RunningTask, context: Any, args: CLIArgs) -> NoReturn:
    """Leave what the supervisor has to know, and become the command that the hooks have given."""
    from step_wrapper.report.registration import register_dagster_run

    launch, state = task.launch, context.obj
    is_remote = args.commands != _HERE
    register_dagster_run(launch, state.metadata)
    node = state.graph[launch.step]
    handover = Handover(
        system=args.commands[0] if is_remote else None,
        namespace=args.command_options.get("k8s_namespace"),
        kill=_kill_command(args, context) if is_remote else None,
        next_steps=list(node.out_funcs),
        is_switch=node.type == "split-switch",
        has_cards=any(decorator.name == "card" for decorator in node.decorators),
        folders=_temporary_folders(node.decorators),
    )
    handover.write(task.folder)
    environment = {**os.environ, **args.get_env(), "PYTHONUNBUFFERED": "x", "METAFLOW_RUN_ID": launch.run_id}
    if is_remote:
        environment = {name: value for name, value in environment.items() if not name.startswith(_PIPES_PREFIX)}
        environment[TRAMPOLINE_VARIABLE] = json.dumps({**launch.remote_env, **_given(launch)})
    command = [str(argument) for argument in args.get_args()]
    flush_output()
    task.tell(HANDS_OVER)
    task.control.recv(1)
    if is_remote:
        # it has a job to delete if nobody is left who would tell it to
        processes.die_with_parent(signal.SIGINT)
    os.execvpe(command[0], command, environment)  # noqa: S606 - the command is a list


def _given(launch: Launch) -> dict[str, str]:
    """The variables by which a process without the wrapper knows what else the task is given."""
    given = {name: os.environ[name] for name in (PARAMETERS_VARIABLE,) if name in os.environ}
    return {**given, **({TRIGGERS_VARIABLE: json.dumps(launch.triggers)} if launch.triggers else {})}


def _kill_command(args: CLIArgs, context: Any) -> list[str] | None:
    """The command that ends all jobs of the run on the system where the step runs, if there is one."""
    group = context.find_root().command.get_command(context, args.commands[0])
    if group is None or "kill" not in getattr(group, "commands", ()):
        return None
    top_level = [str(argument) for argument in args.get_args()][: _position_of(args)]
    return [*top_level, args.commands[0], "kill", "--run-id", str(args.task.run_id)]


def _position_of(args: CLIArgs) -> int:
    """The number of arguments before the command's name."""
    behind = types.SimpleNamespace(entrypoint=[], top_level_options={}, commands=args.commands)
    behind.command_args, behind.command_options = args.command_args, args.command_options
    return len(args.get_args()) - len(CLIArgs.get_args(behind))  # pyright: ignore[reportArgumentType]


def _temporary_folders(decorators: Iterable[Any]) -> list[str]:
    """The temporary folders of decorators, which no process removes that ends by becoming another."""
    values = [value for decorator in decorators for value in {**vars(type(decorator)), **vars(decorator)}.values()]
    return [value.name for value in values if isinstance(value, tempfile.TemporaryDirectory)]
