"""`dg scaffold defs metaflow_pipes.MetaflowFlowComponent NAME --flow-file FILE`."""

import ast
import os
from pathlib import Path
from typing import Any

import click
import dagster as dg
from dagster.components.component_scaffolding import scaffold_component
from pydantic import BaseModel, Field, model_validator

_COMPONENT = """\
import dagster as dg
from {module} import {name}


@dg.component_instance
def load(context: dg.ComponentLoadContext) -> {name}:
    return {name}(flow_file=str(context.project_root / {flow_file!r}))
"""


class FlowScaffoldParams(BaseModel):
    """The parameters of scaffolding an entry."""

    flow_file: str | None = Field(
        default=None, description="The flow file: a relative path starts at the working directory."
    )

    @model_validator(mode="after")
    def check_flow_file(self) -> "FlowScaffoldParams":
        """Refuse what is no flow file, before anything is written.

        Raises:
            click.ClickException: It is missing, or wrong.
        """
        if self.flow_file is None:
            raise click.ClickException(
                "The entry needs a flow file: dg scaffold defs metaflow_pipes.MetaflowFlowComponent NAME --flow-file "
                "flows/train_flow.py"
            )
        problem = _problem(Path(self.flow_file))
        if problem is not None:
            raise click.ClickException(f"--flow-file {self.flow_file} {problem}")
        return self


def _problem(file: Path) -> str | None:
    """The reason why a file is no flow file, for a sentence that begins with its path; None if it seems to be one."""
    if not file.exists():
        return f"does not exist: there is no {file.absolute()}. Give the path of a Python file with a Metaflow flow."
    if not file.is_file():
        return "is a folder. Name the flow file in it."
    try:
        module = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as error:
        return f"is no Python file that can be read: {error}."
    if not any(isinstance(statement, ast.ClassDef) and statement.bases for statement in module.body):
        return (
            "defines no flow. A flow file has a subclass of metaflow.FlowSpec, and makes it where it is the program: "
            'if __name__ == "__main__": TrainFlow()'
        )
    return None


class MetaflowFlowComponentScaffolder(dg.Scaffolder[FlowScaffoldParams]):
    """Writes the entry of a flow file."""

    @classmethod
    def get_scaffold_params(cls) -> type[FlowScaffoldParams]:
        """The options of `dg scaffold defs`."""
        return FlowScaffoldParams

    def scaffold(self, request: dg.ScaffoldRequest[FlowScaffoldParams]) -> None:
        """Write the entry: `defs.yaml`, or `component.py` with `--format python`.

        Args:
            request: The entry's place, and the flow file.
        """
        project = request.project_root or Path.cwd()
        flow_file = Path(os.path.relpath(request.params.flow_file or "", project)).as_posix()
        if request.scaffold_format == "python":
            module, _, name = request.type_name.rpartition(".")
            text = _COMPONENT.format(module=module, name=name, flow_file=flow_file)
            (request.target_path / "component.py").write_text(text, encoding="utf-8")
            return
        attributes: dict[str, Any] = {"flow_file": f"{{{{ context.project_root }}}}/{flow_file}"}
        scaffold_component(request, attributes)
