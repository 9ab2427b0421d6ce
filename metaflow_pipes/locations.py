"""The places that a definitions file names, and whether its flow has changed. Needs neither Dagster nor Metaflow."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# The folder of Metaflow's local datastore (`metaflow.metaflow_config`).
LOCAL_DATASTORE_FOLDER = ".metaflow"


def beside(definitions_file: str | os.PathLike[str], path: str) -> Path:
    """The absolute path of what a definitions file names relative to its folder, or absolutely."""
    return Path(os.path.abspath(Path(definitions_file).parent / path))


def run_folder(definitions_file: str | os.PathLike[str], working_directory: str, flow_file: Path) -> Path:
    """The folder where the steps run: that in which the flow was compiled; the flow file's folder if that is gone.

    Where neither is, as on a worker that has the definitions file alone, it is the folder of that.
    """
    folders = beside(definitions_file, working_directory), flow_file.parent, beside(definitions_file, ".")
    return next((folder for folder in folders if folder.is_dir()), folders[-1])


def fingerprint_of(path: Path) -> str:
    """`sha256:` and the digest of a file's bytes.

    Raises:
        OSError: It can't be read.
    """
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def staleness(
    flow: str,
    flow_file: Path,
    fingerprint: str,
    definitions_file: str | os.PathLike[str],
    folder: Path,
    compile_again: str | None = None,
) -> str | None:
    """The reason why a definitions file no longer fits its flow file, or None if it does.

    Args:
        flow: The flow's name.
        flow_file: The absolute path of the flow file.
        fingerprint: `sha256:` and the digest of the flow file when it was compiled.
        definitions_file: The path of the definitions file.
        folder: Where the flow was compiled.
        compile_again: How it is compiled again, where that is not by `dagster create`.
    """
    again = f"Compile the flow again: {compile_again or _create_command(flow_file, definitions_file, folder)}"
    try:
        found = fingerprint_of(flow_file)
    except OSError as error:
        reason = "is gone" if isinstance(error, FileNotFoundError) else f"can't be read ({error.strerror})"
        return f"The file of the Metaflow flow {flow}, {flow_file}, {reason}. {again}"
    if fingerprint != found:
        compiled = "it was compiled" if compile_again else f"{definitions_file} was compiled from it"
        return f"The Metaflow flow {flow} in {flow_file} has changed since {compiled}. {again}"
    return None


def program(name: str, *, in_folder: Path | None = None) -> str:
    """The shell command for a program of this interpreter's environment, which need not be the one that is activated.

    Args:
        name: `python`, or a script beside it, such as `dagster`.
        in_folder: The folder of the shell; None is the working directory.

    Returns:
        The bare name if the PATH leads to this environment, else the path of the program.
    """
    interpreter = Path(sys.executable)
    script = interpreter if name == "python" else interpreter.with_name(name)
    found = shutil.which(name)
    if found is not None and Path(found).parent == script.parent:
        return name
    if not script.exists():
        return f"{program('python', in_folder=in_folder)} -m {name}"
    relative = os.path.relpath(script, in_folder or Path.cwd())
    is_shorter = len(relative) < len(str(script)) and os.sep in relative
    return shlex.quote(relative if is_shorter else str(script))


def _create_command(flow_file: Path, definitions_file: str | os.PathLike[str], folder: Path) -> str:
    """The shell command, for the folder where the flow was compiled, that makes the definitions file anew."""
    files = [os.path.relpath(path, folder) for path in (flow_file, Path(definitions_file).absolute())]
    flow_argument, definitions_argument = map(shlex.quote, files)
    return f"python {flow_argument} dagster create {definitions_argument}"


def logs_command(
    task: str,
    flow_file: Path,
    folder: Path,
    *,
    datastore: str,
    datastore_root: str,
    settings: Mapping[str, str],
    top_level_args: Sequence[str],
) -> str:
    """The shell command that shows the logs of a task, for the folder where the flow was compiled.

    It has those of Metaflow's options without which Metaflow would look elsewhere than where the run is.

    Args:
        task: The task, `run_id/step/task_id`, or the step, `run_id/step`.
        flow_file: The absolute path of the flow file.
        folder: The folder.
        datastore: The type of the datastore.
        datastore_root: Its root, an absolute path or a URL.
        settings: The `METAFLOW_*` settings of the steps.
        top_level_args: Metaflow's options of the steps.
    """
    metadata = metadata_type(top_level_args)
    options = [
        f"--{name}={used}"
        for name, used in (("datastore", datastore), ("metadata", metadata))
        if used != "local" or settings.get(f"METAFLOW_DEFAULT_{name.upper()}", "local") != "local"
    ]
    default_root = (
        local_datastore_of(folder)
        if datastore == "local"
        else settings.get(f"METAFLOW_DATASTORE_SYSROOT_{datastore.upper()}")
    )
    if datastore_root != default_root:
        options.append(f"--datastore-root={datastore_root}")
    return shlex.join(["python", os.path.relpath(flow_file, folder), *options, "logs", task])


def metadata_type(top_level_args: Sequence[str]) -> str:
    """The type of the metadata provider that Metaflow's options name: `local`, `service`, ..."""
    return next((arg.partition("=")[2] for arg in top_level_args if arg.startswith("--metadata=")), "local")


def metadata_provider(
    folder: Path, *, datastore: str, datastore_root: str, settings: Mapping[str, str], top_level_args: Sequence[str]
) -> str | None:
    """The metadata provider of a flow's runs, as `metaflow.metadata` takes it: `local@/folder`; None if unknown.

    Args:
        folder: Where the steps run.
        datastore: The type of the datastore.
        datastore_root: Its root, an absolute path or a URL.
        settings: The `METAFLOW_*` settings of the steps.
        top_level_args: Metaflow's options of the steps.
    """
    if "--metadata=local" in top_level_args:
        # with another datastore, the steps find the local one as Metaflow does
        root = datastore_root if datastore == "local" else local_datastore_of(folder)
        is_known = root is not None and Path(root).name == LOCAL_DATASTORE_FOLDER
        return f"local@{Path(root or '').parent}" if is_known else None
    url = settings.get("METAFLOW_SERVICE_URL")
    return f"service@{url}" if "--metadata=service" in top_level_args and url else None


def local_datastore_of(folder: Path) -> str | None:
    """The local datastore that Metaflow finds from a folder: its own, or that of the nearest one above."""
    candidates = (Path(os.path.realpath(place), LOCAL_DATASTORE_FOLDER) for place in (folder, *folder.parents))
    return next((str(candidate) for candidate in candidates if candidate.is_dir()), None)
