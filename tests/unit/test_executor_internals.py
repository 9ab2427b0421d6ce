"""The private names of Dagster that are used.

If this fails with a new release of Dagster, `metaflow_pipes/runtime/executors` has to follow it: compare it with
`dagster/_core/executor/in_process.py` and `multiprocess.py` of that release, which are made of the same parts. What
`metaflow_pipes/runs` (`local`, `background`) takes is what each run launcher does: compare `dagster/_core/launcher`.
"""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.definitions.scoped_resources_builder import ScopedResourcesBuilder
from dagster._core.events import EngineEventData
from dagster._core.execution.api import ExecuteRunWithPlanIterable
from dagster._core.execution.compute_logs import create_compute_log_file_key
from dagster._core.execution.context.system import PlanData, PlanOrchestrationContext
from dagster._core.execution.context_creation_job import PlanExecutionContextManager
from dagster._core.execution.plan.active import ActiveExecution
from dagster._core.execution.plan.execute_plan import _trigger_hook, dagster_event_sequence_for_step
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.plan.step import ExecutionStep
from dagster._core.execution.resources_init import resource_initialization_manager
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.multiprocess import MultiprocessExecutor
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.storage.cloud_storage_compute_log_manager import CloudStorageComputeLogManager
from dagster._core.storage.compute_log_manager import ComputeIOType, ComputeLogManager
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.system_config.objects import ResolvedRunConfig
from dagster._grpc.types import ExecuteRunArgs
from dagster._utils import EventGenerationManager

from metaflow_pipes.runtime.executors.multiprocess import PRELOADED_MODULES

ORIGINS = ["remote_job_origin", "job_code_origin"]


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (ExecuteRunWithPlanIterable, ["execution_plan", "iterator", "execution_context_manager"]),
        (
            PlanExecutionContextManager,
            [
                *("job", "execution_plan", "run_config", "dagster_run", "instance", "retry_mode"),
                *("scoped_resources_builder_cm", "raise_on_error", "output_capture", "step_dependency_config"),
            ],
        ),
        (EventGenerationManager.get_object, []),
        (ScopedResourcesBuilder.build, ["required_resource_keys"]),
        (InstanceConcurrencyContext, ["instance", "dagster_run"]),
        (
            ExecutionPlan.start,
            [
                *("retry_mode", "tag_concurrency_limits"),
                *("instance_concurrency_context", "step_dependency_config"),
            ],
        ),
        (ActiveExecution.get_steps_to_execute, ["limit"]),
        (ActiveExecution.handle_event, ["dagster_event"]),
        (ActiveExecution.verify_complete, ["job_context", "step_key"]),
        (ActiveExecution.concurrency_event_iterator, ["plan_context"]),
        (ActiveExecution.plan_events_iterator, ["job_context"]),
        (ActiveExecution.sleep_interval, []),
        (ActiveExecution.mark_interrupted, []),
        (ActiveExecution.check_for_interrupts, []),
        (ActiveExecution.get_known_state, []),
        (dagster_event_sequence_for_step, ["step_context"]),
        (_trigger_hook, ["step_context", "step_event_list"]),
        (create_compute_log_file_key, []),
        (dg.Executor.log_failure_or_retry_event_after_error, ["step_context", "err_info", "known_state"]),
        (dg.DagsterEvent.capture_logs, ["job_context", "step_keys", "log_key", "log_context"]),
        (dg.DagsterEvent.engine_event, ["plan_context", "message", "event_specific_data"]),
        (EngineEventData.in_process, ["pid", "step_keys_to_execute"]),
        (EngineEventData.interrupted, ["steps_interrupted"]),
        (dg.DagsterInstance.create_run_for_job, ["job_def", "run_id", "run_config", "tags", *ORIGINS]),
        (ExecuteRunArgs, ["job_origin", "run_id", "instance_ref"]),
        (ExecuteRunArgs.get_command_args, []),
        (dg.DagsterInstance.report_run_failed, ["dagster_run", "message"]),
        (dg.DagsterInstance.report_run_canceling, ["run"]),
        (dg.DagsterInstance.report_run_canceled, ["dagster_run", "message"]),
        (ComputeLogManager.build_log_key_for_run, ["run_id", "step_key"]),
        (ComputeLogManager.open_log_stream, ["log_key", "io_type"]),
        (LocalComputeLogManager.complete_artifact_path, ["log_key"]),
        (SqliteEventLogStorage._connect, ["shard"]),
        (SqliteEventLogStorage._event_to_row, ["event"]),
        (SqliteEventLogStorage.conn_string_for_shard, ["shard_name"]),
        (SqliteEventLogStorage.run_connection, ["run_id"]),
        (SqliteEventLogStorage.path_for_shard, ["run_id"]),
        (
            MultiprocessExecutor,
            ["retries", "max_concurrent", "tag_concurrency_limits", "start_method", "explicit_forkserver_preload"],
        ),
        (MultiprocessExecutor.execute, ["plan_context", "execution_plan"]),
        (
            PlanOrchestrationContext,
            ["plan_data", "log_manager", "executor", "output_capture", "resume_from_failure"],
        ),
        (PlanData._replace, []),
        (ExecutionPlan.build_subset_plan, ["step_keys_to_execute", "job_def", "resolved_run_config"]),
        (ExecutionStep.get_execution_dependency_keys, []),
        (ExecutionStep.get_mapping_key, []),
        (ResolvedRunConfig.build, ["job_def", "run_config"]),
        (dg.DagsterRun._replace, []),
        (dg.OpExecutionContext.get_step_execution_context, []),
        (CloudStorageComputeLogManager._on_capture_complete, ["log_key"]),
        (CloudStorageComputeLogManager._poll_for_local_upload, ["log_key"]),
    ],
)
def test_dagster_has_what_the_executor_uses(function: Any, parameters: list[str]):
    known = list(inspect.signature(function).parameters)
    assert [name for name in known if name in parameters] == parameters


def test_events_that_have_one_place_are_stored_there_alone():
    source = inspect.getsource(SqliteEventLogStorage.store_event)
    kinds = re.findall(r"event\.dagster_event_type in (\w+)", source)
    assert kinds == ["ASSET_EVENTS", "ASSET_CHECK_EVENTS", "EVENT_TYPE_TO_PIPELINE_RUN_STATUS"]
    assert "SqlEventLogStorageTable.insert()" in inspect.getsource(SqliteEventLogStorage.prepare_insert_event)


def test_names_that_are_no_functions():
    assert ScopedResourcesBuilder._fields == ("resource_instance_dict", "contains_generator")
    default = inspect.signature(PlanExecutionContextManager).parameters["scoped_resources_builder_cm"].default
    assert default in (None, resource_initialization_manager)
    assert RetryMode.from_config({"enabled": {}}) is RetryMode.ENABLED
    assert [io_type.value for io_type in ComputeIOType] == ["stdout", "stderr"]
    assert isinstance(CloudStorageComputeLogManager.local_manager, property)
    assert "_in_flight" in inspect.getsource(ActiveExecution.__init__)
    assert {"_db_lock", "_initialized_dbs"} <= set(re.findall(r"self\.(\w+)", inspect.getsource(SqliteEventLogStorage)))
    assert {"executable_map", "step_dict_by_key"} <= set(ExecutionPlan._fields)
    assert {"dagster_run", "execution_plan"} <= set(PlanData._fields)


@pytest.mark.parametrize("module", PRELOADED_MODULES)
def test_modules_that_processes_of_ops_are_forked_with(module: str):
    importlib.import_module(module)


def test_origin_by_which_the_ui_knows_a_run():
    location = RegisteredCodeLocationOrigin("defs.py")
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(location, SINGLETON_REPOSITORY_NAME), "Flow")
    assert origin.repository_origin.code_location_origin.location_name == "defs.py"
    assert origin.job_name == "Flow"
