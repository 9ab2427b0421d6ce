"""Assets of the user's take the artifacts and tasks behind a flow's assets."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import dagster as dg
import metaflow
import pytest
from support import Project, load

from metaflow_pipes.io import MetaflowIOManager
from metaflow_pipes.io.artifacts import ReadError, Source
from metaflow_pipes.io.store import STORE, ArtifactStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FLOW = "TrainedFlow"


@dataclass
class Trained:
    """A flow, and an instance on which it was materialized, at once with an asset that takes a model."""

    project: Project
    assets: list[dg.AssetsDefinition]
    instance: dg.DagsterInstance
    result: dg.ExecuteInProcessResult

    def take(
        self, step: str, annotation: Any = Any, *, name: str = "taken", **metadata: Any
    ) -> dg.ExecuteInProcessResult:
        """Materialize an asset that takes what a step's asset stands for, in a run of its own."""
        taken = taking(step, annotation, name=name, **metadata)
        return dg.materialize([*self.assets, taken], selection=[taken], instance=self.instance, raise_on_error=False)


def taking(step: str, annotation: Any = Any, *, name: str = "taken", manager: str | None = None, **metadata: Any):
    def function(value):
        return dg.Output(value, metadata={"shown": repr(value)})

    function.__annotations__["value"] = annotation
    asset_in = dg.AssetIn([FLOW, step], metadata=metadata, input_manager_key=manager)
    return dg.asset(name=name, ins={"value": asset_in}, io_manager_key="memory", resource_defs=MEMORY)(function)


MEMORY = {"memory": dg.mem_io_manager}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Iterator[Trained]:
    project = Project.of(tmp_path_factory.mktemp("trained"), "trained.py")
    assets = load(project.compile("trained.py")).ASSETS
    with dg.DagsterInstance.ephemeral() as instance:
        together = taking("choose", dict, name="together", artifact="best_model")
        result = dg.materialize([*assets, together], instance=instance)
        yield Trained(project, assets, instance, result)


def _value(result: dg.ExecuteInProcessResult, asset: str = "taken") -> Any:
    assert result.success
    return result.output_for_node(asset)


def _why(result: dg.ExecuteInProcessResult) -> str:
    assert not result.success
    (failure,) = result.get_step_failure_events()
    error = failure.step_failure_data.error
    texts = []
    while error is not None:
        texts.append(error.message)
        error = error.cause
    return " ".join(" ".join(texts).split())


def test_asset_takes_the_artifact_of_the_same_run(trained):
    assert _value(trained.result, "together") == {"depth": 3, "rate": 0.5}


def test_asset_takes_the_artifact_of_the_latest_materialization(trained, tmp_path, monkeypatch):
    # neither the working directory nor Metaflow's settings of the process lead to the flow's datastore
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METAFLOW_DATASTORE_SYSROOT_LOCAL", str(tmp_path))
    before, written = dict(os.environ), _files(trained.project.folder)
    assert _value(trained.take("choose", dict, artifact="best_model")) == {"depth": 3, "rate": 0.5}
    assert (dict(os.environ), _files(trained.project.folder)) == (before, written)
    assert not list(tmp_path.glob("*metaflow*"))


def _files(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def test_foreach_step_gives_a_list_in_the_order_of_its_items(trained):
    models = _value(trained.take("fit", list[dict], artifact="model"))
    assert [model["depth"] for model in models] == [3, 1, 2]
    tasks = _value(trained.take("fit", list))
    assert [task["model"].data["depth"] for task in tasks] == [3, 1, 2]


def test_without_an_artifact_the_value_is_metaflows_task(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = _value(trained.take("choose", metaflow.Task))
    assert task.pathspec == f"{FLOW}/dagster-{trained.result.run_id}/choose/choose"
    assert task.data.best_model["depth"] == 3
    assert task.parent.parent.id == f"dagster-{trained.result.run_id}"


def test_type_annotation_is_honoured(trained):
    assert 'Type check failed for step input "value" - expected type "Int"' in _why(
        trained.take("choose", int, artifact="best_model")
    )
    assert "Type check failed" in _why(trained.take("choose", metaflow.Run))


def test_missing_artifact_names_those_there_are(trained):
    why = _why(trained.take("choose", artifact="worst_model"))
    assert "has no artifact worst_model. It has these: best_model, " in why
    assert "_graph" not in why
    assert "which is no name of an artifact" in _why(trained.take("choose", artifact=3))


def test_asset_that_was_not_materialized(trained):
    taken = taking("choose", artifact="best_model")
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([*trained.assets, taken], selection=[taken], instance=instance, raise_on_error=False)
        assert "takes asset TrainedFlow/choose which has not been materialized" in _why(result)
        instance.report_runless_asset_event(dg.AssetMaterialization([FLOW, "choose"]))
        result = dg.materialize([*trained.assets, taken], selection=[taken], instance=instance, raise_on_error=False)
        assert "does not say where its Metaflow task is stored" in _why(result)


def _materialization(trained: Trained, step: str) -> dg.AssetMaterialization:
    events = trained.result.get_asset_materialization_events()
    return next(event.materialization for event in events if event.asset_key.path == [FLOW, step])


def test_partitions_are_taken_each_by_itself_or_as_a_dict(trained):
    """In another code location, which knows of the flow's asset by its key alone."""
    days = dg.StaticPartitionsDefinition(["mon", "tue", "wed"])
    choose, start = _materialization(trained, "choose"), _materialization(trained, "start")
    spec = dg.AssetSpec([FLOW, "choose"], partitions_def=days)
    with dg.DagsterInstance.ephemeral() as instance:
        for day, made in (("mon", choose), ("tue", start)):
            event = dg.AssetMaterialization([FLOW, "choose"], metadata=made.metadata, partition=day)
            instance.report_runless_asset_event(event)

        def take(partitions_def, partition_key=None, mapping=None, **metadata):
            asset_in = dg.AssetIn(
                [FLOW, "choose"], metadata=metadata, input_manager_key="metaflow_io", partition_mapping=mapping
            )

            @dg.asset(ins={"value": asset_in}, partitions_def=partitions_def, io_manager_key="memory")
            def taken(value):
                return value

            resources = {"metaflow_io": MetaflowIOManager(), **MEMORY}
            options = {"instance": instance, "resources": resources, "raise_on_error": False}
            return dg.materialize([spec, taken], selection=[taken], partition_key=partition_key, **options)

        assert _value(take(days, "mon", artifact="best_model"))["depth"] == 3
        assert _value(take(days, "tue", artifact="depths")) == [3, 1, 2]
        assert "takes asset TrainedFlow/choose, partition wed, which has not been" in _why(take(days, "wed"))
        assert "partition wed" in _why(take(None, artifact="rate"))
        everything = take(None, artifact="rate", allow_missing_partitions=True)
        assert _value(everything) == {"mon": 0.5, "tue": 0.5}


def test_failed_task_and_deleted_run(trained):
    source = Source(
        f"{FLOW}/dagster-{trained.result.run_id}/choose/choose",
        ArtifactStore("local", str(trained.project.folder / ".metaflow")),
    )
    assert source.artifact("best_model")["depth"] == 3
    with pytest.raises(ReadError, match=r"is not in the local datastore .* any more: its run was deleted"):
        replace(source, pathspec=f"{FLOW}/dagster-gone/choose/choose").artifact("best_model")
    with pytest.raises(ReadError, match="Metaflow does not know here"):
        replace(source, store=replace(source.store, datastore="floppy")).artifact("best_model")
    trained.project.write(
        "failing.py",
        "from metaflow import FlowSpec, step\n\nclass FailingFlow(FlowSpec):\n    @step\n    def start(self):\n"
        "        self.x = 1\n        raise ValueError\n        self.next(self.end)\n\n    @step\n    def end(self):\n"
        "        pass\n\nif __name__ == '__main__':\n    FailingFlow()\n",
    )
    result = trained.project.run("failing.py")
    with pytest.raises(ReadError, match="has failed, so its artifacts are not what the asset stands for"):
        replace(source, pathspec=f"FailingFlow/dagster-{result.run_id}/start/start").artifact("x")


def test_settings_that_the_process_lacks_are_those_of_another_one(trained, capfd):
    """As those by which an S3 datastore is reached: Metaflow reads its settings when a process imports it."""
    settings = {"METAFLOW_S3_ENDPOINT_URL": "http://localhost:1"}
    store = ArtifactStore("local", str(trained.project.folder / ".metaflow"), None, settings)
    source = Source(f"{FLOW}/dagster-{trained.result.run_id}/choose/choose", store)
    assert source.artifact("best_model") == {"depth": 3, "rate": 0.5}
    with pytest.raises(ReadError, match="has no artifact worst_model"):
        source.artifact("worst_model")
    with pytest.raises(ReadError, match="start the process with METAFLOW_S3_ENDPOINT_URL=http://localhost:1"):
        source.tasks()
    assert not capfd.readouterr().out


def test_value_of_another_asset_is_refused():
    @dg.asset(
        io_manager_key="metaflow_io",
        resource_defs={"metaflow_io": dg.IOManagerDefinition.hardcoded_io_manager(MetaflowIOManager())},
    )
    def mine():
        return 1

    result = dg.materialize([mine], raise_on_error=False)
    assert "The value of asset mine can't be stored by MetaflowIOManager" in _why(result)


def test_materialization_says_where_it_is_and_no_secret(trained):
    stored = _materialization(trained, "choose").metadata[STORE].data
    folder = trained.project.folder
    assert stored == {"datastore": "local", "root": f"{folder}/.metaflow", "metadata": f"local@{folder}"}
