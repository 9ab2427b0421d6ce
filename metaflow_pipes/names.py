"""Names that several parts of the package know: tags of Dagster runs, the run-id prefix, metadata keys, variables."""

from __future__ import annotations

from typing import Literal, get_args

# What the id of a Metaflow run on Dagster begins with; the id of its first Dagster run follows.
RUN_ID_PREFIX = "dagster-"

# Tags. Of each run: the flow; and as soon as they are known, the Metaflow run id and the Metaflow user.
FLOW_TAG = "metaflow/flow"
# Of a run of assets, as soon as a flow begins (`run_tags`): what the tags begin with that name its flows, if it has
# several, and their jobs.
FLOW_TAG_PREFIX = "metaflow.flow/"
JOB_TAG_PREFIX = "metaflow.job/"
RUN_ID_TAG = "metaflow/run_id"
USER_TAG = "metaflow/user"
# Of a run that resumes a Metaflow run: the id of that run, in the same datastore; the step that runs again, with all
# below it; and a JSON list of the parameters whose values in the run config replace the origin's.
ORIGIN_RUN_ID_TAG = "metaflow/origin_run_id"
STEP_TO_RERUN_TAG = "metaflow/step_to_rerun"
OVERRIDDEN_PARAMETERS_TAG = "metaflow/overridden_parameters"
# Options of one run, where it has others than its deployment (`run_options.RunOptions`): JSON lists of Metaflow tags
# and of decorators for every step, the Metaflow namespace of the steps, and how many seconds the run may take.
RUN_TAGS_TAG = "metaflow/run_tags"
DECOSPECS_TAG = "metaflow/decospecs"
NAMESPACE_TAG = "metaflow/namespace"
WORKFLOW_TIMEOUT_TAG = "metaflow/workflow_timeout"
# Of a run that a schedule has started: when it was due, in ISO 8601 with the offset of the schedule's time zone.
SCHEDULED_TIME_TAG = "metaflow/scheduled_time"
# Of a run that events have started: a JSON list of those, as Metaflow's `current.trigger` has them; their names; the
# Metaflow runs that have finished, `Flow/run_id`; and the Dagster run that has published the latest event.
TRIGGERS_TAG = "metaflow/triggers"
EVENT_TAG = "metaflow/event"
TRIGGERED_BY_TAG = "metaflow/triggered_by"
TRIGGERED_BY_RUN_TAG = "metaflow/triggered_by_dagster_run"
TRIGGER_TAGS = (TRIGGERS_TAG, EVENT_TAG, TRIGGERED_BY_TAG, TRIGGERED_BY_RUN_TAG)
# The key of an event's asset begins with this; the parts of the event's name follow.
EVENT_ASSET = "metaflow_event"
# What the name of an event begins with that is any other Dagster asset: `asset:raw/events`.
ASSET_EVENT_PREFIX = "asset:"
# What the tags begin with that show Metaflow tags in Dagster.
METAFLOW_TAG_PREFIX = "metaflow.tag/"
# Of a run that background processes of this package run: which those are (`runs.host_processes.RunWorker`), and the
# run, since Dagster copies tags to the re-executions of a run.
WORKER_TAG = "metaflow/run_worker"
# What the names of the variables begin with by which Dagster Pipes tells a step of its op.
PIPES_VARIABLES_PREFIX = "DAGSTER_PIPES_"
# By this, Dagster's run monitoring ends a run whose worker can't do so itself (`dagster.MAX_RUNTIME_SECONDS_TAG`).
MAX_RUNTIME_TAG = "dagster/max_runtime"
# A run's priority in Dagster's queue, and among the steps that wait for a pool (`dagster._core.storage.tags`).
PRIORITY_TAG = "dagster/priority"
# The partition of a run; or the first and the last one of a run of several; and the backfill that it is a part of.
PARTITION_TAG = "dagster/partition"
PARTITION_RANGE_START_TAG = "dagster/asset_partition_range_start"
PARTITION_RANGE_END_TAG = "dagster/asset_partition_range_end"
BACKFILL_TAG = "dagster/backfill"
PARTITION_TAGS = (PARTITION_TAG, PARTITION_RANGE_START_TAG, PARTITION_RANGE_END_TAG)
# What stands between the first and the last key of several partitions, as in Dagster's UI.
PARTITION_RANGE = "..."
# The tags by which Dagster marks a re-execution, which names the run that it re-executes, and one from failure.
PARENT_RUN_ID_TAG = "dagster/parent_run_id"
RESUME_RETRY_TAG = "dagster/is_resume_retry"

# The resources that the ops of generated files need: the Pipes client, and the IO manager of their outputs.
PIPES_RESOURCE = "metaflow_pipes"
IO_RESOURCE = "metaflow_io"
# The output of an op that all other ops take, and the one that stands for the asset of its step. Those of a switch have
# the names of ops.
RESULT_OUTPUT = "result"
ASSET_OUTPUT = "metaflow_asset"

# What the names of the outputs begin with that stand for the checks of an asset.
CHECK_OUTPUT_PREFIX = "metaflow_check_"

# The metadata of a foreach step's output that says how many items it has.
SPLITS_METADATA = "num_splits"

# How the threads executor starts the processes of steps: from one that has imported Metaflow, its default; from one
# that has imported what the flow imports, as well; or each by itself.
WarmStart = Literal["metaflow", "flow", "off"]
# The decorator of Metaflow's that asks for a pod, and whose pod that is: that of the op, or one of a job of Metaflow's.
KUBERNETES = "kubernetes"
KUBERNETES_CHOICES = ("pod", "job")
WARM_STARTS: tuple[WarmStart, ...] = get_args(WarmStart)

# Where `dagster dev` opens the UI, unless it is told another port.
DAGSTER_DEV_URL = "http://localhost:3000"
# Where a Dagster is found: its webserver, or else its instance on this machine.
URL_VARIABLE = "DAGSTER_WEBSERVER_URL"
HOME_VARIABLE = "DAGSTER_HOME"


def event_path(name: str) -> list[str]:
    """The parts of an event's asset key: as of the address `/report_asset_materialization/metaflow_event/NAME`.

    Args:
        name: The event's name, or `asset:` and the key of any other asset, such as `asset:raw/events`. Its slashes
            divide it, as in that address.
    """
    if name.startswith(ASSET_EVENT_PREFIX):
        return name.removeprefix(ASSET_EVENT_PREFIX).split("/")
    return [EVENT_ASSET, *name.split("/")]


def is_event_name(name: str) -> bool:
    """Whether each part of an event's asset key has a name."""
    return all(part.strip() for part in event_path(name))


def project_and_branch(deployment_name: str | None) -> tuple[str | None, str | None]:
    """Project and branch of `project.branch.flow`; only the branch, with a user's name in it, can hold more dots.

    Args:
        deployment_name: With `@project`, that of project, branch and flow; else None.
    """
    if deployment_name is None:
        return None, None
    project, _, rest = deployment_name.partition(".")
    return project, rest.rpartition(".")[0]
