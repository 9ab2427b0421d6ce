"""Steps and exit hooks run the code package of the flow where the flow file is not, or is another one."""

from __future__ import annotations

import ast
import fcntl
import json
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import metaflow
import pytest
from support import Project, execute, failure_description, failures, job_of, load, values_of

from metaflow_pipes.deployment.definitions_file import read_deployment
from metaflow_pipes.runs.included_files import with_stored_files
from step_wrapper import companions

if TYPE_CHECKING:
    from collections.abc import Iterator

    import dagster as dg


@dataclass
class Traveled:
    """TravelingFlow: compiled in one folder, which has gone, and deployed to another one.

    Attributes:
        source: The flow file's text.
        output: What `create` has said.
        definitions: The definitions file.
        store: The folder with the datastore.
        cache: The folder with the code packages.
    """

    source: str
    output: str
    definitions: Path
    store: Path
    cache: Path

    @property
    def package(self) -> dict[str, Any]:
        """The arguments of `CodePackage`."""
        (call,) = [
            node
            for node in ast.walk(ast.parse(self.definitions.read_text()))
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "CodePackage"
        ]
        return {"url": ast.literal_eval(call.args[0]), **{k.arg: ast.literal_eval(k.value) for k in call.keywords}}

    @property
    def place(self) -> Path:
        return self.cache / self.package["sha"]

    def run(self) -> dg.ExecuteInProcessResult:
        return execute(job_of(self.definitions))

    def metaflow_run(self, result: dg.ExecuteInProcessResult) -> metaflow.Run:
        metaflow.metadata(f"local@{self.store}")
        metaflow.namespace(None)
        return metaflow.Run(f"TravelingFlow/dagster-{result.run_id}")

    def request(self, **changes: str) -> companions.CodeRequest:
        deployment = read_deployment(self.definitions)
        request = companions.CodeRequest(
            flow="TravelingFlow",
            datastore="local",
            datastore_root=deployment.datastore_root,
            sha=self.package["sha"],
            metadata=self.package["metadata"],
            folder=str(self.place),
            file="traveling.py",
            fingerprint=deployment.fingerprint,
        )
        return companions.CodeRequest(**{**request, **changes})


@pytest.fixture(scope="module")
def traveled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traveled]:
    folder = tmp_path_factory.mktemp("travel")
    for name in ("store", "library", "deployed", "cache"):
        (folder / name).mkdir()
    # a module that is not beside the flow file, and asks to be in the package
    (folder / "library" / "carried.py").write_text('METAFLOW_PACKAGE_POLICY = "include"\nLUGGAGE = "a hat"\n')
    flows = Project.of(folder / "project", "traveling.py")
    flows.write("traveling_helper.py", "def say(words):\n    return words.upper()\n")
    flows.write("words.txt", "hello")
    source = (flows.folder / "traveling.py").read_text()
    variables = {
        "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(folder / "store"),
        "METAFLOW_HOME": str(folder / "home"),
        "PYTHONPATH": str(folder / "library"),
    }
    created = flows.metaflow("traveling.py", "dagster", "create", "defs.py", "--package", **variables)
    first = (flows.folder / "defs.py").read_text()
    flows.metaflow("traveling.py", "dagster", "create", "defs.py", "--package", **variables)
    # the package does not have the definitions file, which has its digest
    assert (flows.folder / "defs.py").read_text() == first
    shutil.move(flows.folder / "defs.py", folder / "deployed" / "defs.py")
    shutil.rmtree(flows.folder)
    shutil.rmtree(folder / "library")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METAFLOW_PIPES_CODE_CACHE", str(folder / "cache"))
        definitions = folder / "deployed" / "defs.py"
        yield Traveled(source, created.stdout, definitions, folder / "store", folder / "cache")


@pytest.fixture(scope="module")
def first_run(traveled: Traveled) -> dg.ExecuteInProcessResult:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return traveled.run()


def test_worker_with_nothing_but_the_definitions_file_runs_the_code_package(traveled, first_run):
    assert first_run.success
    values = values_of(traveled.metaflow_run(first_run))
    assert values["start"]["said"] == "HELLO"
    assert values["start"]["carried"] == "a hat"
    assert values["start"]["folder"] == str(traveled.place)
    assert values["end"]["result"] == 50
    # whoever runs it has Metaflow
    assert not list(traveled.place.glob(".mf_code/metaflow*"))
    assert f"Its code package, which workers without the flow file fetch: {traveled.package['url']}" in (
        " ".join(traveled.output.split())
    )


def test_client_finds_the_code_of_a_run(traveled, first_run):
    run = traveled.metaflow_run(first_run)
    assert run.code is not None
    assert run.code.flowspec.decode() == traveled.source
    assert run["end"].task.code.script_name == "traveling.py"


def test_package_is_fetched_once_and_again_if_it_was_changed(traveled, first_run):
    before = traveled.place.stat()
    assert traveled.run().success
    assert traveled.place.stat().st_ino == before.st_ino
    (traveled.place / "traveling.py").write_text("raise SystemExit('changed')")
    assert traveled.run().success
    assert (traveled.place / "traveling.py").read_text() == traveled.source
    assert {path.suffix for path in traveled.cache.iterdir()} == {"", ".lock"}


def test_another_version_of_the_flow_file_is_not_run(traveled, first_run):
    other = traveled.definitions.with_name("traveling.py")
    other.write_text(traveled.source.replace("10 *", "20 *"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = traveled.run()
        assert values_of(traveled.metaflow_run(result))["end"]["result"] == 50
        assert read_deployment(traveled.definitions).staleness() is None
        # the version that was compiled is run where it is
        other.write_text(traveled.source)
        for name in ("traveling_helper.py", ".mf_code/carried.py"):
            shutil.copy(traveled.place / name, traveled.definitions.parent)
        values = values_of(traveled.metaflow_run(traveled.run()))
        assert values["start"]["folder"] == str(traveled.definitions.parent)
    finally:
        for name in ("traveling.py", "traveling_helper.py", "carried.py"):
            (traveled.definitions.parent / name).unlink(missing_ok=True)


def test_exit_hook_runs_from_the_package(traveled, first_run):
    (sensor,) = load(traveled.definitions).defs.sensors
    shutil.rmtree(traveled.place)
    (outcome,) = sensor.follow_up.act(None, first_run.dagster_run)
    assert outcome.failure is None
    assert f"bye from {traveled.place}" in outcome.message


def test_file_that_a_run_is_given_travels_with_it(traveled, tmp_path):
    file = tmp_path / "other.txt"
    file.write_text("given")
    values = with_stored_files(read_deployment(traveled.definitions), {"words": str(file)}, print)
    file.unlink()
    result = execute(job_of(traveled.definitions), values)
    assert values_of(traveled.metaflow_run(result))["start"]["said"] == "GIVEN"

    here = Project.of(tmp_path / "project", "traveling.py")
    here.write("carried.py", "LUGGAGE = None")
    here.write("traveling_helper.py", "")
    output = here.refuses("traveling.py", "trigger", f"--definitions-file={traveled.definitions}", f"--words={file}")
    assert f"Parameter words is {file}, and there is no such file here" in " ".join(output.split())


def test_package_that_can_not_be_fetched_fails_the_step_and_says_why(traveled, monkeypatch, tmp_path):
    monkeypatch.setenv("METAFLOW_PIPES_CODE_CACHE", str(tmp_path))
    package = Path(traveled.package["url"])
    stored = package.read_bytes()
    try:
        package.write_bytes(stored + b"\0")
        description = failure_description(failures(traveled.run(), "start")[0])
        assert (
            f"The code of flow TravelingFlow, which is not beside its definitions file as it was compiled, can't be "
            f"fetched from {package} to {tmp_path}" in description
        )
        assert "The package is damaged" in description
        package.unlink()
        assert "There is no such package" in failure_description(failures(traveled.run(), "start")[0])
    finally:
        package.write_bytes(stored)
    assert {path.suffix for path in tmp_path.iterdir()} == {".lock"}


def test_processes_that_fetch_at_once_wait_for_the_first(traveled, tmp_path):
    place = tmp_path / "0123"
    request = json.dumps(traveled.request(folder=str(place), sha="0123"))
    with (tmp_path / "0123.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        others = [
            subprocess.Popen([sys.executable, "-m", "step_wrapper", companions.FETCHES, request], cwd=tmp_path)
            for _ in range(2)
        ]
        place.mkdir()
        (place / "traveling.py").write_text(traveled.source)
    # there is no such package: they find what was there before they had the lock
    assert [other.wait() for other in others] == [0, 0]


def test_datastore_that_can_not_be_written_is_said_before_anything_is_deployed(project):
    flows: Project = project("one_step.py")
    store = flows.folder / ".metaflow"
    store.rmdir()
    store.write_text("no folder")
    output = flows.refuses("one_step.py", "create", "defs.py", "--package", METAFLOW_DATASTORE_SYSROOT_LOCAL=os.devnull)
    assert "The code package of flow OneStepFlow can't be stored in the local datastore" in " ".join(output.split())
    assert not (flows.folder / "defs.py").exists()
