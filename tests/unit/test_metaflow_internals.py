"""The private names of Metaflow that are used, and those that its own commands and schedulers use of each other.

If this fails with a new release of Metaflow, the module that a comment names has to follow it. Beyond what is here,
only Metaflow's decorators, its client and its command line are used as its users use them.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
from metaflow import clone_util, metaflow_config, runtime, task
from metaflow.cli_components import init_cmd, step_cmd
from metaflow.client.core import get_metadata
from metaflow.datastore import FlowDataStore, TaskDataStore
from metaflow.datastore.content_addressed_store import ContentAddressedStore
from metaflow.datastore.datastore_set import ImmutableBlobCache
from metaflow.datastore.datastore_storage import DataStoreStorage
from metaflow.decorators import (
    Decorator,
    StepDecorator,
    _attach_decorators,
    extract_step_decorator_from_decospec,
    flow_decorators,
)
from metaflow.event_logger import NullEventLogger
from metaflow.extension_support import plugins as extension_plugins
from metaflow.flowspec import FlowSpec
from metaflow.graph import DAGNode, FlowGraph
from metaflow.includefile import CURRENT_UPLOADER, FilePathClass
from metaflow.metadata_provider import MetadataProvider
from metaflow.metaflow_config_funcs import config_values
from metaflow.metaflow_environment import MetaflowEnvironment
from metaflow.mflog import mflog
from metaflow.monitor import NullMonitor
from metaflow.package import MetaflowPackage
from metaflow.packaging_sys.backend import PackagingBackend
from metaflow.packaging_sys.v1 import MetaflowCodeContentV1
from metaflow.parameters import Parameter, deploy_time_eval
from metaflow.plugins import DATASTORES, METADATA_PROVIDERS
from metaflow.plugins.aws.step_functions import production_token
from metaflow.plugins.cards.card_datastore import CardDatastore
from metaflow.plugins.datastores.local_storage import LocalStorage
from metaflow.plugins.metadata_providers.service import ServiceMetadataProvider
from metaflow.runner import utils
from metaflow.runner.deployer import DeployedFlow, TriggeredRun, generate_fake_flow_file_contents
from metaflow.runner.deployer_impl import DeployerImpl
from metaflow.runner.subprocess_manager import SubprocessManager
from metaflow.tagging_util import validate_tags
from metaflow.user_configs.config_parameters import dump_config_values
from metaflow.util import get_latest_run_id, get_username, write_latest_run_id

from step_wrapper.companions import PACKAGED_MODULES
from step_wrapper.report.exceptions import METADATA_SERVICE


@pytest.mark.parametrize(
    ("function", "names"),
    [
        # stage 1 of metaflow_pipes/compile: a flow as `run` has it
        (_attach_decorators, ["flow", "decospecs"]),
        (extract_step_decorator_from_decospec, ["decospec"]),
        (flow_decorators, ["flow_cls"]),
        (FlowSpec._init_graph, []),
        (FlowSpec._get_parameters, []),
        (StepDecorator.external_init, []),
        (StepDecorator.step_task_retry_count, []),
        (dump_config_values, ["flow"]),
        (config_values, []),
        (validate_tags, ["tags"]),
        (get_username, []),
        # metaflow_pipes/compile/packaging.py, step_wrapper/fetching.py: the code package, as `argo-workflows` has it
        (MetaflowPackage.__init__, ["flow", "environment", "echo", "suffixes", "flow_datastore"]),
        (MetaflowPackage._user_code_tuples, []),
        (MetaflowPackage.user_tuples, []),
        (MetaflowPackage.package_url, []),
        (MetaflowPackage.package_sha, []),
        (MetaflowPackage.get_backend, ["pkg_metadata"]),
        (PackagingBackend.cls_open, ["content"]),
        (PackagingBackend.cls_list_members, ["archive"]),
        (PackagingBackend.cls_member_name, ["member"]),
        (PackagingBackend.cls_extract_members, ["archive", "members", "dest_dir"]),
        (FlowDataStore.load_data, ["keys", "force_raw"]),
        (deploy_time_eval, ["value"]),
        # metaflow_pipes/deployment/production_tokens.py
        (production_token.load_token, ["token_prefix"]),
        (production_token.store_token, ["token_prefix", "token"]),
        (production_token.new_token, ["token_prefix", "prev_token"]),
        # metaflow_pipes/runs and cli: where the last run of a flow is
        (get_latest_run_id, ["echo", "flow_name"]),
        # metaflow_pipes/runs/included_files.py: the file of an IncludeFile, as `argo-workflows trigger` stores it
        (CURRENT_UPLOADER.store, ["flow_name", "path", "is_text", "encoding", "handler", "echo"]),
        # metaflow_pipes/api: what the other deployers are made of
        (DeployerImpl._create, ["create_class", "kwargs"]),
        (utils.get_lower_level_group, ["api", "top_level_kwargs", "sub_command", "sub_command_kwargs"]),
        (utils.handle_timeout, ["attribute_file_fd", "command_obj", "file_read_timeout"]),
        (utils.temporary_fifo, []),
        (generate_fake_flow_file_contents, ["flow_name", "param_info"]),
        (SubprocessManager.run_command, ["command", "env", "cwd", "show_output"]),
        (TriggeredRun.__init__, ["deployer", "content"]),
        (DeployedFlow.__init__, ["deployer"]),
        (get_metadata, []),
        # step_wrapper/step/decorator.py: the hooks by which Metaflow tells of a task, in this order
        (
            StepDecorator.step_init,
            ["flow", "graph", "step_name", "decorators", "environment", "flow_datastore", "logger"],
        ),
        (
            StepDecorator.task_pre_step,
            [
                *("step_name", "task_datastore", "metadata", "run_id", "task_id", "flow", "graph"),
                *("retry_count", "max_user_code_retries", "ubf_context", "inputs"),
            ],
        ),
        (
            StepDecorator.task_post_step,
            ["step_name", "flow", "graph", "retry_count", "max_user_code_retries"],
        ),
        (
            StepDecorator.task_exception,
            ["exception", "step_name", "flow", "graph", "retry_count", "max_user_code_retries"],
        ),
        (write_latest_run_id, ["obj", "run_id"]),
        # step_wrapper/step/resume.py: as `metaflow.runtime` clones
        (
            clone_util.clone_task_helper,
            [
                *("flow_name", "clone_run_id", "run_id", "step_name", "clone_task_id", "task_id"),
                *("flow_datastore", "metadata_service", "origin_ds_set", "attempt_id"),
            ],
        ),
        # step_wrapper/report/datastore.py: the tasks of a run, as `TaskDataStoreSet` reads them
        (ImmutableBlobCache.__init__, ["preloaded"]),
        (ContentAddressedStore.set_blob_cache, ["blob_cache"]),
        (ContentAddressedStore.load_blobs, ["keys"]),
        (TaskDataStore.metadata_name_for_attempt, ["name", "attempt"]),
        (TaskDataStore.keys_for_artifacts, ["names"]),
        (DataStoreStorage.list_content, ["paths"]),
        (DataStoreStorage.load_bytes, ["keys"]),
        # step_wrapper/report: the datastore, as `metaflow.task` and `metaflow.runtime` use it
        (FlowDataStore.__init__, ["flow_name", "metadata", "storage_impl", "ds_root"]),
        (
            FlowDataStore.get_task_datastore,
            ["run_id", "step_name", "task_id", "attempt", "data_metadata", "mode", "allow_not_done"],
        ),
        (FlowDataStore.get_task_datastores, ["pathspecs", "attempt"]),
        (TaskDataStore.init_task, []),
        (TaskDataStore.save_logs, ["logsource", "stream_data"]),
        (TaskDataStore.load_logs, ["logsources", "stream"]),
        (TaskDataStore.save_metadata, ["contents", "add_attempt"]),
        (TaskDataStore.load_metadata, ["names", "add_attempt"]),
        (TaskDataStore.has_metadata, ["name"]),
        (TaskDataStore.save_artifacts, ["artifacts_iter"]),
        (TaskDataStore.load_artifacts, ["names"]),
        (mflog.decorate, ["source", "line"]),
        (mflog.merge_logs, ["logs"]),
        (CardDatastore.__init__, ["flow_datastore", "pathspec"]),
        (CardDatastore.get_storage_root, ["storage_type"]),
        (CardDatastore.extract_card_paths, []),
        (CardDatastore.extract_data_paths, ["card_type", "card_hash", "card_id"]),
        (CardDatastore.info_from_path, ["path"]),
        (CardDatastore.create_full_path, ["card_path"]),
        # step_wrapper/report/registration.py: the metadata provider, as `metaflow.task` uses it
        (MetadataProvider.__init__, ["environment", "flow", "event_logger", "monitor"]),
        (MetadataProvider.add_sticky_tags, ["tags", "sys_tags"]),
        (MetadataProvider.register_run_id, ["run_id"]),
        (MetadataProvider.register_task_id, ["run_id", "step_name", "task_id", "attempt"]),
        (MetadataProvider.register_metadata, ["run_id", "step_name", "task_id", "metadata"]),
        (MetadataProvider.get_object, ["obj_type", "sub_type", "filters", "attempt"]),
        # step_wrapper/heartbeat.py: as `metaflow.runtime` has them sent
        (MetadataProvider.start_run_heartbeat, ["flow_id", "run_id"]),
        (MetadataProvider.stop_heartbeat, []),
        (MetaflowEnvironment.__init__, ["flow"]),
        (NullEventLogger.__init__, []),
        (NullMonitor.__init__, []),
    ],
)
def test_metaflow_has_the_functions_that_are_used(function: Any, names: list[str]):
    known = list(inspect.signature(function).parameters)
    assert [name for name in known if name in names] == names


@pytest.mark.parametrize(
    ("of", "names"),
    [
        # stage 1 of metaflow_pipes/compile
        (Decorator.__init__, {"attributes", "statically_defined", "inserted_by", "_user_defined_attributes"}),
        (FlowGraph.__init__, {"sorted_nodes"}),
        (DAGNode.__init__, {"name", "type", "doc", "decorators", "in_funcs", "out_funcs", "split_parents"}),
        (DAGNode.__init__, {"parallel_foreach", "num_args"}),
        # step_wrapper: artifacts of a task as they are listed, read and passed on
        (TaskDataStore.__init__, {"_objects", "_info", "_mode", "_storage_impl"}),
        # metaflow_pipes/compile/flow_parameters.py: how the content of a file is read
        (FilePathClass.__init__, {"_is_text", "_encoding"}),
        # step_wrapper/heartbeat.py
        (ServiceMetadataProvider.__init__, {"url_run_template"}),
    ],
)
def test_objects_have_the_attributes_that_are_used(of: Any, names: set[str]):
    assert names <= set(re.findall(r"self\.(\w+)", inspect.getsource(of)))


def test_flow_has_its_graph():
    assert "cls._graph" in inspect.getsource(FlowSpec._init_graph)
    assert Parameter.IS_CONFIG_PARAMETER is False


def test_artifacts_by_which_the_graph_goes_on():
    names = (
        "_task_ok",
        "_transition",
        "_foreach_num_splits",
        "_foreach_stack",
        "_iteration_stack",
        "_parallel_ubf_iter",
    )
    sources = inspect.getsource(task) + inspect.getsource(inspect.getmodule(FlowSpec))  # pyright: ignore[reportArgumentType]
    assert [name for name in names if name not in sources] == []
    assert "_control_mapper_tasks" in inspect.getsource(runtime)
    assert set(runtime.PREFETCH_DATA_ARTIFACTS) >= {"_foreach_stack", "_task_ok", "_transition"}


def test_metadata_by_which_an_attempt_is_known():
    sources = inspect.getsource(task) + inspect.getsource(TaskDataStore)
    fields = set(re.findall(r'field="([\w-]+)"', sources))
    assert {"attempt", "attempt-done", "ds-type", "ds-root"} <= fields
    assert TaskDataStore.METADATA_ATTEMPT_SUFFIX


def test_options_that_a_step_is_run_with():
    options = {command: {o for p in command.params for o in p.opts} for command in (step_cmd.step, init_cmd.init)}
    assert {"--run-id", "--task-id", "--tag"} <= options[init_cmd.init]
    assert {
        *("--run-id", "--task-id", "--tag", "--input-paths", "--retry-count", "--max-user-code-retries"),
        *("--split-index", "--namespace", "--clone-run-id", "--ubf-context", "--num-parallel"),
    } <= options[step_cmd.step]


def test_kinds_of_plugins_that_the_extension_names():
    assert {"cli", "deployer_impl_provider", "step_decorator"} <= set(extension_plugins._plugin_categories)
    assert "local" in {storage.TYPE for storage in DATASTORES}
    assert "local" in {provider.TYPE for provider in METADATA_PROVIDERS}
    assert hasattr(LocalStorage, "datastore_root")


def test_requests_to_the_service_can_be_limited_and_told_by_their_module():
    assert set(ServiceMetadataProvider._session.adapters) == {"http://", "https://"}
    assert ServiceMetadataProvider.__module__ == METADATA_SERVICE


def test_folder_of_a_code_package_with_modules_that_are_not_beside_the_flow_file():
    assert MetaflowCodeContentV1._code_dir == PACKAGED_MODULES
    variables = MetaflowPackage.get_post_extract_env_vars('{"mfcontent_version": 1}', "/place")
    assert variables["PYTHONPATH"] == f"/place/{PACKAGED_MODULES}"


def test_settings_that_are_read():
    assert metaflow_config.MAX_ATTEMPTS > 1
    assert {"DEFAULT_DECOSPECS", "UI_URL"} <= set(vars(metaflow_config))
