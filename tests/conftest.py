"""Every test starts from the same environment, whatever the machine's is."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

# The tests start hundreds of interpreters, which need not compile the project's modules anew each time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Before Metaflow is imported, which reads its configuration at once.
for variable in [name for name in os.environ if name.startswith(("METAFLOW_", "DAGSTER_"))]:
    del os.environ[variable]
os.environ["METAFLOW_USER"] = "tester"
# Where deployments and production tokens are stored: nothing of the tests stays in the user's home.
os.environ["METAFLOW_HOME"] = tempfile.mkdtemp(prefix="metaflow-home-")
atexit.register(shutil.rmtree, os.environ["METAFLOW_HOME"], ignore_errors=True)
# As where nobody has activated the virtual environment: nothing may depend on what the PATH finds there.
if sys.prefix != sys.base_prefix:
    folders = os.environ["PATH"].split(os.pathsep)
    os.environ["PATH"] = os.pathsep.join(folder for folder in folders if Path(folder) != Path(sys.prefix, "bin"))
# Background jobs of a shell ignore SIGINT. Dagster would then ignore SIGTERM, too, and so would what the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

from support import STEPS, Project  # noqa: E402

from metaflow_pipes.runtime.step_thread import StepThread, running  # noqa: E402
from metaflow_pipes.runtime.warm import WarmProcesses  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

# The folders of tests whose runs in the tests' own process start each step by itself.
COLD = {"faults", "servers"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pictures", action="store_true", help="let tests/ui take the pictures in docs/images")
    ways = ("off", "metaflow", "flow")
    parser.addoption(
        "--warm",
        choices=ways,
        help="how all runs start their steps; by default forked, but each by itself in tests/faults and tests/servers",
    )


def pytest_configure(config: pytest.Config) -> None:
    warm = config.getoption("warm")
    if warm is not None:
        os.environ["METAFLOW_PIPES_WARM"] = warm


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool, bool]:
    """Let the runs in this process start their steps in one way, also those of fixtures."""
    STEPS.warm = item.config.getoption("warm") or ("metaflow" if COLD.isdisjoint(item.path.parts) else "off")
    with contextlib.closing(WarmProcesses(STEPS.warm)) as processes, running(StepThread(warm_processes=processes)):
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let one worker run the tests of a module that share what a fixture makes, which would be made twice else."""
    for item in items if config.pluginmanager.hasplugin("xdist") else ():
        shares = isinstance(item, pytest.Function) and any(
            definitions[-1].scope == "module" for definitions in item._fixtureinfo.name2fixturedefs.values()
        )
        if shares and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(autouse=True)
def metaflow_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A test's own folder for deployments and production tokens."""
    folder = tmp_path / "metaflow_home"
    monkeypatch.setenv("METAFLOW_HOME", str(folder))
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., Project]:
    """A project with copies of flows of `tests/flows`: `project("linear.py")`."""
    return lambda *flows: Project.of(tmp_path / "project", *flows)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where all temporary files of the test are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder
