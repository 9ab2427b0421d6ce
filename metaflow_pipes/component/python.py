"""`load_flow_definitions`: flows in a Python project, without an entry and without a definitions file."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

# what Dagster's own state-backed definitions ask
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext, DefinitionsLoadType

from metaflow_pipes.component.component import MetaflowFlowComponent, Place
from metaflow_pipes.component.parts import MetaflowOptions
from metaflow_pipes.component.state import find_flow_files

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    import dagster as dg
    from typing_extensions import Unpack

    from metaflow_pipes.component.parts import EventSpec, RetrySpec, ScheduleSpec
    from metaflow_pipes.names import WarmStart
    from metaflow_pipes.runtime import DagsterMetaflowTranslator


class FlowOptions(TypedDict, total=False):
    """The keyword arguments of `load_flow_definitions`: the attributes of an entry."""

    name: str
    top_level: MetaflowOptions | Mapping[str, Any]
    tags: Sequence[str]
    namespace: str
    step_env: Mapping[str, str | dg.EnvVar]
    parameters: Mapping[str, Any]
    schedule: ScheduleSpec | str | bool
    schedule_parameters: Mapping[str, Any]
    triggers: Sequence[EventSpec] | Sequence[str] | str | bool
    paused: bool
    max_concurrent_runs: int
    partitions: Mapping[str, str]
    partition_format: str
    partition_range: Sequence[str]
    depends_on: Sequence[str]
    param_from: Mapping[str, str]
    automation: str
    executor: str
    executor_config: Mapping[str, Any]
    max_workers: int
    location_executor: Literal["threads", "own", "project"]
    warm: WarmStart
    package: bool
    pools: Mapping[str, str]
    priority: int
    retries: RetrySpec | int
    workflow_timeout: int
    log_level: str
    notify_on_error: bool
    notify_on_success: bool
    notify_slack_webhook_url: str
    notify_webhook_url: str
    notify_email: str
    translator: type[DagsterMetaflowTranslator] | str
    translation: Callable[[dg.AssetSpec, Any], dg.AssetSpec]
    select: Sequence[str]
    exclude: Sequence[str]
    post_process: Sequence[Callable[[dg.Definitions], dg.Definitions]]


def load_flow_definitions(*flow_files: str | os.PathLike[str], **options: Unpack[FlowOptions]) -> dg.Definitions:
    """The definitions of flows, for a code location without components.

    The flows are compiled when the code location is loaded, each in a process of its own: this one imports neither
    Metaflow nor the flows. The code location's runs take what was compiled then.

    Args:
        flow_files: The flow files: paths and globs, from the working directory.
        options: The attributes of an entry, as `MetaflowFlowComponent` documents them. A variable of `step_env` that is
            a `dagster.EnvVar` is looked up in the run's environment when a step starts; `translator` takes a class,
            too; `top_level` takes a mapping of Metaflow's options, `{"datastore": "s3"}`.

    Raises:
        CompileError: A flow can't be read, or can't run on Dagster; or an option can't be used. The message says why.

    Example:
        ```python
        import dagster as dg
        from metaflow_pipes import load_flow_definitions

        flows = load_flow_definitions("flows/train_flow.py", step_env={"API_KEY": dg.EnvVar("API_KEY")})
        defs = dg.Definitions.merge(flows, dg.Definitions(assets=[raw_events]))
        ```
    """
    here = Path.cwd()
    files = find_flow_files([str(file) for file in flow_files], here)
    given: dict[str, Any] = {**options, "flow_files": [str(file) for file in files]}
    top_level, translator = given.get("top_level"), given.get("translator")
    if top_level is not None and not isinstance(top_level, MetaflowOptions):
        named = {"decospecs" if name == "with" else name: value for name, value in top_level.items()}
        given["top_level"] = MetaflowOptions(**named)
    if inspect.isclass(translator):
        given["translator"] = f"{translator.__module__}:{translator.__qualname__}"
    component = MetaflowFlowComponent(**given)
    place = Place(f"load_flow_definitions({', '.join(map(repr, map(str, flow_files)))})", files[0], here)
    key = f"metaflow_pipes/{hashlib.sha256(repr((place, component.options())).encode()).hexdigest()}"
    state = _known_state(key) or component.compiled(place)
    DefinitionsLoadContext.get().add_to_pending_reconstruction_metadata(key, state)
    return component.definitions(state, place, "reload the code location")


def _known_state(key: str) -> str | None:
    """The text that was compiled when the code location was loaded, in a process that runs a part of it; else None."""
    context = DefinitionsLoadContext.get()
    if context.load_type != DefinitionsLoadType.RECONSTRUCTION:
        return None
    return context.reconstruction_metadata.get(key)
