"""`MetaflowFlowComponent`: a Metaflow flow is one YAML entry of a `dg` project."""

import warnings
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
from dagster.components.resolved.core_models import post_process_defs
from dagster.components.utils.defs_state import DefsStateConfig, DefsStateConfigArgs, ResolvedDefsStateConfig

from metaflow_pipes.compile.keywords import command_line_options
from metaflow_pipes.component.attributes import FlowAttributes, FlowStep
from metaflow_pipes.component.broken import broken_entry, is_validated, specs_in, specs_read_from
from metaflow_pipes.component.loading import Hooks, definitions_of
from metaflow_pipes.component.parts import decospecs_of
from metaflow_pipes.component.scaffolder import MetaflowFlowComponentScaffolder
from metaflow_pipes.component.state import FlowsRequest, compile_state, find_flow_files, read_state
from metaflow_pipes.component.translator import Selection, entry_translator, out_of_date, plain_spec
from metaflow_pipes.errors import CompileError
from metaflow_pipes.runtime import MetaflowFlow, MetaflowFlowWarning, MetaflowStep

REFRESH = "dg utils refresh-defs-state"


class Place(NamedTuple):
    """The place of an entry.

    Attributes:
        name: Its name: the path of its folder in the project's `defs`.
        file: The absolute path of the file that it is written in.
        project: The absolute path of the project.
    """

    name: str
    file: Path
    project: Path


@dg.scaffold_with(MetaflowFlowComponentScaffolder)
@dataclass(kw_only=True)
class MetaflowFlowComponent(FlowAttributes, dg.StateBackedComponent, dg.Resolvable):
    """A Metaflow flow: a job whose steps are Metaflow's tasks, and an asset for each step.

    Scaffold an entry for a flow file in the project's folder:

    `dg scaffold defs metaflow_pipes.MetaflowFlowComponent training --flow-file flows/train_flow.py`

    ```yaml
    type: metaflow_pipes.MetaflowFlowComponent

    attributes:  # those that the flow needs; only the first is required
      flow_file: "{{ context.project_root }}/flows/train_flow.py"
      step_env:
        API_KEY: "{{ env.API_KEY }}"
      schedule: "0 6 * * *"
      translation:
        group_name: training
        owners: ["team:ml"]
    ```

    The flow is compiled by `dg utils refresh-defs-state`, and by `dg dev` whenever it loads the project. The steps run
    in the project's folder. Override `get_asset_spec(flow, step)` or `get_executor()` in a subclass for what no
    attribute says.
    """

    defs_state: ResolvedDefsStateConfig = field(default_factory=DefsStateConfigArgs.local_filesystem)

    # without annotations, since they are no attributes of an entry: its place; why it can't be loaded, while what was
    # there before is; and why states could not be made anew in this process, which may load what is stored once more
    _place = None
    _broken_by = None
    _problems = {}  # noqa: RUF012

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """The words of Dagster's lists on the component."""
        return dg.ComponentTypeSpec(description=cls.__doc__, tags=["metaflow", "python", "machine-learning"])

    @classmethod
    def load(cls, attributes: Any, context: dg.ComponentLoadContext) -> "MetaflowFlowComponent":
        """Load an entry of YAML.

        Args:
            attributes: Its attributes.
            context: The place of the entry, by which its state has a name of its own.
        """
        # not by StateBackedComponent, which asks for the name of the state before the place is known
        loaded = super(dg.StateBackedComponent, cls).load(attributes, context)
        loaded._place = _place_of(context)
        context.component_tree.mark_component_defs_state_key(
            defs_state_key=loaded.defs_state_config.key, loc=context.component_loc
        )
        return loaded

    @property
    def defs_state_config(self) -> DefsStateConfig:
        """The place where the compiled flows are stored."""
        return DefsStateConfig(
            key=self.defs_state.key or f"MetaflowFlowComponent[{self._name}]",
            management_type=self.defs_state.management_type,
            refresh_if_dev=self.defs_state.refresh_if_dev and self._broken_by is None,
        )

    def get_asset_spec(self, flow: MetaflowFlow, step: MetaflowStep) -> dg.AssetSpec:
        """The asset of a step. A subclass can change what the translator and the attribute `translation` say.

        What it depends on by the flow's graph is added later.

        Args:
            flow: The flow.
            step: The step.

        Example:
            ```python
            class ShopFlow(MetaflowFlowComponent):
                def get_asset_spec(self, flow, step):
                    spec = super().get_asset_spec(flow, step)
                    return spec.merge_attributes(tags={"tier": "gold"}) if step.name == "train" else spec
            ```
        """
        spec = plain_spec(flow, step)
        return spec if self.translation is None else self.translation(spec, FlowStep(flow, step))

    def get_executor(self) -> dg.ExecutorDefinition | None:
        """The executor of the jobs, in place of that of the attributes; None is that. For subclasses.

        Example:
            ```python
            class ShopFlow(MetaflowFlowComponent):
                def get_executor(self):
                    return k8s_job_executor.configured({"job_namespace": "ml"})
            ```
        """
        return None

    async def refresh_state(self, project_root: Path) -> str:
        """Compile the flows, and store what comes of it.

        Args:
            project_root: The project's folder.
        """
        self._place = self._place or self._place_in(project_root)
        key = (project_root, self.defs_state_config.key)
        try:
            version = await super().refresh_state(project_root)
        except CompileError as error:
            self._problems[key] = str(error)
            raise
        self._problems.pop(key, None)
        return version

    def write_state_to_path(self, state_path: Path) -> None:
        """Compile the flows, each in a process of its own.

        Args:
            state_path: The file for what comes of it.

        Raises:
            CompileError: An attribute can't be used, or a flow can't be read or can't run on Dagster.
        """
        assert self._place is not None
        state_path.write_text(self.compiled(self._place), encoding="utf-8")

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The definitions of the flows. If there can be none, those of one asset that says why.

        Args:
            context: The place of the entry.
        """
        place = self._place = self._place or self._place_in(context.project_root)
        try:
            return super().build_defs(context)
        except Exception as error:
            if is_validated():
                raise
            # the user's code may raise anything, and the other entries have no part in it
            problem = str(error) if isinstance(error, CompileError) else f"{type(error).__name__}: {error}"
        warnings.warn(f"The entry {place.name} can't be loaded. {problem}", MetaflowFlowWarning, stacklevel=2)
        self._broken_by = problem
        try:
            return super().build_defs(context)
        except Exception:  # what there was before can't be loaded, either
            return broken_entry(place.name, problem)
        finally:
            self._broken_by = None

    def build_defs_from_state(self, context: dg.ComponentLoadContext, state_path: Path | None) -> dg.Definitions:
        """The definitions of the compiled flows. Imports neither Metaflow nor the flows.

        Args:
            context: The place of the entry.
            state_path: The file of the compiled flows, or None if they have not been compiled.

        Raises:
            CompileError: They have not been compiled.
        """
        place = self._place = self._place or self._place_in(context.project_root)
        again = f"{REFRESH}, or reload the project in dg dev"
        if self._broken_by is not None:
            return broken_entry(place.name, self._broken_by, self._known_assets(place, state_path))
        problem = self._problems.get((place.project, self.defs_state_config.key))
        if problem is not None:
            raise CompileError(problem)
        if state_path is None:
            raise CompileError(f"The entry {place.name} has not been compiled. Compile it: {again}")
        return self.definitions(state_path.read_text(encoding="utf-8"), place, again)

    def definitions(self, state: str, place: Place, compile_again: str) -> dg.Definitions:
        """The definitions of compiled flows; warns if they are out of date.

        Args:
            state: The compiled flows, as `compiled` gives them.
            place: Where the entry is.
            compile_again: How they are compiled again.
        """
        compiled, compiled_for = read_state(state)
        selection = Selection(tuple(self.select), tuple(self.exclude))
        hooks = Hooks(
            translator=partial(entry_translator, self, selection),
            executor=lambda executor: self.get_executor() or executor,
            compile_again=compile_again,
            location_executor=self.location_executor,
        )
        defs, flows = definitions_of(compiled, place.file, hooks)
        selection.check(flows)
        problems = [out_of_date(flow) for flow in flows]
        if compiled_for != self._request(place).digest:
            problems.append(
                f"{place.name} has changed since its flows were compiled. Compile them again: {compile_again}"
            )
        for problem in filter(None, problems):
            warnings.warn(problem, MetaflowFlowWarning, stacklevel=2)
        return post_process_defs(defs, list(self.post_process))

    def compiled(self, place: Place) -> str:
        """Compile the flows, each in a process of its own.

        Args:
            place: Where the entry is.

        Raises:
            CompileError: An attribute can't be used, or a flow can't be read or can't run on Dagster.
        """
        return compile_state(self._request(place), place.name)

    @property
    def _name(self) -> str:
        """The entry's name. Of one that is made in Python, Dagster does not always tell the place."""
        if self._place is not None:
            return self._place.name
        files = ["/".join(Path(pattern).parts[-2:]) for pattern in self.patterns]
        return ", ".join(filter(None, [*files, self.name, self.top_level.branch]))

    def _place_in(self, project: Path) -> Place:
        """The place of an entry that is made in Python: the project itself, wherever its code stands."""
        return Place(self._name, project / "pyproject.toml", project)

    def _known_assets(self, place: Place, state_path: Path | None) -> list[dg.AssetSpec]:
        """The assets of an entry that can't be loaded: as they were before, or as the flow files tell."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MetaflowFlowWarning)
            if state_path is not None:
                return specs_in(self.definitions(state_path.read_text(encoding="utf-8"), place, REFRESH))
            translator = entry_translator(self, Selection(tuple(self.select), tuple(self.exclude)), None)
            return specs_read_from(find_flow_files(self.patterns, place.file.parent), self.name, place.file, translator)

    def _request(self, place: Place) -> FlowsRequest:
        """The request to the compiler."""
        if (self.flow_file is None) == (self.flow_files is None):
            given = "neither" if self.flow_file is None else "both"
            raise CompileError(
                f"The entry {place.name} has {given} of flow_file and flow_files. Give one of them: flow_file: "
                "'{{ context.project_root }}/flows/train_flow.py'"
            )
        return FlowsRequest(
            files=find_flow_files(self.patterns, place.file.parent),
            options=self.options(),
            top_level=tuple(command_line_options(self.top_level.keywords())),
            decospecs=decospecs_of(self.retries),
            folder=place.project,
            beside=place.file.parent,
        )


def _place_of(context: dg.ComponentLoadContext) -> Place:
    # of several entries in a file, each has a number
    number: Any = getattr(context.component_loc, "instance_key", None)
    name = context.path.relative_to(context.defs_module_path).as_posix()
    return Place(f"{name}[{number}]" if number else name, context.path / "defs.yaml", context.project_root)
