"""The imports of a step, done before there is one, in a process that steps are forked from."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# The modules that any step needs beside `metaflow`, whose command line imports them when it is called.
_MODULES = (
    "metaflow",
    "metaflow.cli",
    "metaflow.cli_components.init_cmd",
    "metaflow.cli_components.run_cmds",
    "metaflow.cli_components.step_cmd",
    "metaflow.plugins.timeout_decorator",
    "metaflow.task",
    "step_wrapper.launch",
    "step_wrapper.log_saver",
    "step_wrapper.report.report",
    "step_wrapper.step.process",
    "step_wrapper.step.resume",
)
# Those that take options from the flow while they are imported: of its parameters, configs and decorators.
_TAKING_OPTIONS = ("metaflow.cli", "metaflow.cli_components")
# The modules of Metaflow's storages and their clients, by the type of the datastore.
_STORAGES = {
    "s3": (
        *("boto3", "metaflow.plugins.datastores.s3_storage", "metaflow.plugins.datatools.s3", "step_wrapper.report.s3"),
        "concurrent.futures.thread",
    ),
    "azure": ("metaflow.plugins.datastores.azure_storage",),
    "gs": ("metaflow.plugins.datastores.gs_storage",),
    "local": ("metaflow.plugins.datastores.local_storage",),
}
# As many as `multiprocessing` draws when it is imported.
_KEY_BYTES = 32
# The device files of GPUs that CUDA opens for a context, which no fork survives.
_DEVICES = ("/dev/nvidia",)


class UnfitError(Exception):
    """After an import, steps can't be forked from this process.

    Args:
        module: The module.
        reason: A predicate: what the module has done.
    """

    def __init__(self, module: str, reason: str):
        super().__init__(f"the import of {module} {reason}")


def import_metaflow(datastore: str) -> None:
    """Import what each step of a flow with this type of datastore imports.

    Raises:
        UnfitError: A thread runs then; a `.pth` file or an extension of Metaflow may have started it.
    """
    for module in (*_MODULES, *_STORAGES.get(datastore, ())):
        # a step fails at the same import, and says so
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    _forget_modules_that_take_options()
    _check_fitness("Metaflow and its extensions")


def import_modules_of(flow_file: str) -> None:
    """Import what a flow file imports, in its functions too, as if it were the main program.

    Raises:
        UnfitError: After one of the imports, steps can't be forked; names its module.
    """
    try:
        tree = ast.parse(Path(flow_file).read_bytes())
    except (OSError, SyntaxError):
        return  # each step will say so
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = str(Path(flow_file).resolve().parent)
    for module, names in _imports(tree):
        for name in [module, *(f"{module}.{name}" for name in names)]:
            try:
                # what is no module of its own, but a name of one, can't be found
                if name == module or importlib.util.find_spec(name) is not None:
                    importlib.import_module(name)
            except SystemExit:
                raise UnfitError(module, "ends Python") from None
            except Exception:
                # a step may never come to this import, or finds a way around it
                break
        _check_fitness(module)


def reseed() -> None:
    """Draw new seeds and keys in a forked process, as Python's own `random` does by itself."""
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        numpy.seed()
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing is not None:
        # whoever knows it can have the listeners of other tasks run what he likes
        multiprocessing.current_process().authkey = os.urandom(_KEY_BYTES)


def _forget_modules_that_take_options() -> None:
    """Let each step import the modules again that depend on its flow; all that they import stays imported."""
    for name in list(sys.modules):
        if name in _TAKING_OPTIONS or name.startswith(tuple(f"{module}." for module in _TAKING_OPTIONS)):
            del sys.modules[name]
            package, _, attribute = name.rpartition(".")
            # `from metaflow import cli` looks there first
            if package in sys.modules:
                vars(sys.modules[package]).pop(attribute, None)


def _imports(tree: ast.AST) -> Iterator[tuple[str, list[str]]]:
    """The modules that a file imports, each with the names that it takes from it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, []
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            yield node.module, [alias.name for alias in node.names if alias.name != "*"]


def _check_fitness(module: str) -> None:
    if _thread_count() > 1 and _thread_count_after_fork() > 1:
        raise UnfitError(module, "starts threads, which a forked process does not have")
    for descriptor in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{descriptor}").startswith(_DEVICES):  # noqa: PTH115
                raise UnfitError(module, "opens a GPU, which a forked process can't use")


def _thread_count() -> int:
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208 - as above


def _thread_count_after_fork() -> int:
    """The number of threads when those are gone that libraries end before each fork, as OpenBLAS does."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return _thread_count()
