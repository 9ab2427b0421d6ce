"""Decorators of a flow that say what starts it, and what follows its runs: a part of stage 1."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from metaflow.decorators import flow_decorators
from metaflow.parameters import DeployTimeField

from metaflow_pipes.compile.flow_model import ExitHooksModel, ScheduleModel
from metaflow_pipes.errors import CompileError

if TYPE_CHECKING:
    from collections.abc import Sequence


def read_exit_hooks(state: Any) -> ExitHooksModel:
    """The functions of all `@exit_hook` decorators of a flow, in their order, each once.

    Args:
        state: As for `read_flow`.

    Raises:
        CompileError: A hook is no function that another process could find; names it, and says what to do.
    """
    decorators = [decorator for decorator in flow_decorators(state.flow) if decorator.name == "exit_hook"]
    flow = state.flow.name
    hooks = {
        outcome: tuple(dict.fromkeys(name for decorator in decorators for name in _hooks(flow, decorator, outcome)))
        for outcome in ("on_success", "on_error")
    }
    paths = dict.fromkeys(name for names in hooks.values() for name in names if "." in name)
    limits = [limit for decorator in decorators if (limit := _timeout(flow, decorator)) is not None]
    return ExitHooksModel(
        **hooks,
        timeout_seconds=max(limits, default=None),
        not_importable={path: problem for path in paths if (problem := _import_problem(path)) is not None},
    )


def _hooks(flow: str, decorator: Any, outcome: str) -> Sequence[str]:
    """The hooks of one decorator: names of functions of the flow file, and import paths."""
    hooks = decorator.attributes[outcome] or []
    if isinstance(hooks, str) or not hasattr(hooks, "__iter__"):
        raise CompileError(
            f"@exit_hook of flow *{flow}* has {outcome}={hooks!r}, but needs a list of functions or of their names."
        )
    return [_hook(flow, hook, outcome) for hook in hooks]


def _hook(flow: str, hook: Any, outcome: str) -> str:
    """A hook as Metaflow's runner takes it: the name of a function of the flow file, or an import path."""
    where = f"The {outcome} of @exit_hook of flow *{flow}* has the hook"
    if isinstance(hook, str):
        if "." not in hook and not callable(_in_flow_file(hook)):
            raise CompileError(
                f"{where} {hook!r}, but the flow file has no function of that name. Write it there, or give an import "
                "path: `package.module.function`."
            )
        return hook
    name = getattr(hook, "__name__", None) or repr(hook)
    if _in_flow_file(name) is hook:
        return name
    path = f"{getattr(hook, '__module__', None)}.{name}"
    if getattr(sys.modules.get(getattr(hook, "__module__", None) or ""), name, None) is hook:
        return path
    raise CompileError(
        f"{where} {name}, which another process can't find: it runs after the run, in a process of its own. Define it "
        "by `def` at the top level of the flow file or of a module."
    )


def _in_flow_file(name: str) -> Any:
    return getattr(sys.modules["__main__"], name, None)


def _import_problem(path: str) -> str | None:
    """The reason why a function can't be imported here, or None if it can."""
    module, _, name = path.rpartition(".")
    own_path = list(sys.path)
    # the runner has both on its path: the folder of the flow file, and the one where it runs
    sys.path.append(os.getcwd())  # noqa: PTH109 - a string
    try:
        return None if callable(getattr(importlib.import_module(module), name)) else "it is no function"
    except Exception as error:  # modules of the user may raise anything
        return f"{type(error).__name__}: {error}"
    finally:
        sys.path[:] = own_path


def _timeout(flow: str, decorator: Any) -> int | None:
    options = decorator.attributes["options"] or {}
    seconds = options.get("timeout")
    if seconds is None:
        return None
    if not isinstance(seconds, int) or isinstance(seconds, bool) or seconds < 1:
        raise CompileError(
            f"@exit_hook of flow *{flow}* has options={{'timeout': {seconds!r}}}, but a hook's time limit is a whole "
            "number of seconds, at least 1."
        )
    return seconds


def read_schedule(flow: Any) -> ScheduleModel | None:
    """The `@schedule` of a flow; None if it has none, or if that is switched off, as by `daily=False`.

    Args:
        flow: The flow, whose decorators Metaflow has initialized.

    Raises:
        MetaflowException: A function that gives a value when the flow is deployed has failed.
        CompileError: The decorator has a value that is no string.
    """
    decorators = flow._flow_decorators.get("schedule")
    if not decorators:
        return None
    (decorator,) = decorators
    if any(callable(value) for value in decorator.attributes.values()):
        values = {name: _deployed(name, value) for name, value in decorator.attributes.items()}
        decorator.attributes.update(values)
        # Metaflow's own rule of which attribute holds; it looks at nothing else
        decorator.flow_init(flow, *[None] * 7)
    for name, value in (("cron", decorator.schedule), ("timezone", decorator.timezone)):
        if value is not None and not isinstance(value, str):
            raise CompileError(f"Flow *{flow.name}*: the {name} of @schedule is {value!r}, but has to be a string.")
    if decorator.schedule is None:
        return None
    return ScheduleModel(expression=decorator.schedule.strip(), timezone=(decorator.timezone or "").strip() or None)


def _deployed(name: str, value: Any) -> Any:
    """An attribute's value: functions are called, as those that give the default of a parameter."""
    if not callable(value):
        return value
    expected = str if name in ("cron", "timezone") else bool
    return DeployTimeField("schedule", expected, name, value, return_str=False)(deploy_time=True)
