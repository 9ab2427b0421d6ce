"""A `dg` project with entries of flows, loaded in this process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext

if TYPE_CHECKING:
    from pathlib import Path

FLOW = '''
import os

from metaflow import FlowSpec, Parameter, step


class {name}(FlowSpec):
    """Scales a number."""

    alpha = Parameter("alpha", default=0.5)

    @step
    def start(self):
        """Begin."""
        self.next(self.train)

    @step
    def train(self):
        """Train."""
        self.model = (self.alpha, os.environ.get("API_KEY"), os.environ.get("REGION"))
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    {name}()
'''


@dataclass
class DgProject:
    """A `dg` project, loaded in this process."""

    folder: Path

    @classmethod
    def of(cls, folder: Path, entries: dict[str, str], flows: dict[str, str]) -> DgProject:
        """A project with entries and flow files. The name of its folder is that of its package."""
        package = folder / "src" / folder.name
        (package / "defs").mkdir(parents=True)
        (folder / ".metaflow").mkdir()
        (folder / "flows").mkdir()
        for file in (package / "__init__.py", package / "defs" / "__init__.py"):
            file.touch()
        (folder / "pyproject.toml").write_text(
            f'[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "{folder.name}"\n'
        )
        for name, source in flows.items():
            (folder / "flows" / name).write_text(source)
        project = cls(folder)
        for name, yaml in entries.items():
            project.entry(name).parent.mkdir()
            project.entry(name).write_text(yaml)
        return project

    def entry(self, name: str) -> Path:
        return self.folder / "src" / self.folder.name / "defs" / name / "defs.yaml"

    def states(self) -> str:
        """All that is stored of the compiled flows."""
        return "".join(file.read_text() for file in sorted(self.folder.rglob(".local_defs_state/*/state")))

    def load(self, *, in_dg: bool = False, validates: bool = False) -> dg.Definitions:
        """The project's definitions; in `dg`, its entries are compiled first."""
        with pytest.MonkeyPatch.context() as monkeypatch:
            # as in a process of its own: where a run's process has loaded a job, Dagster takes it for that from then on
            monkeypatch.setattr(DefinitionsLoadContext, "_instance", None)
            monkeypatch.syspath_prepend(str(self.folder / "src"))
            if in_dg:
                monkeypatch.setenv("DAGSTER_IS_DEV_CLI", "1")
            if validates:
                monkeypatch.setenv("DAGSTER_IS_DEFS_VALIDATION_CLI", "1")
            return dg.load_from_defs_folder(path_within_project=self.folder)


def spec_of(defs: dg.Definitions, *key: str) -> dg.AssetSpec:
    """The spec of an asset."""
    return next(spec for spec in defs.resolve_all_asset_specs() if spec.key == dg.AssetKey(list(key)))
