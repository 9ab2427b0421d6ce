"""Decorators that use all hooks of Metaflow's runtime: one by their arguments, one by the system's context."""

from __future__ import annotations

import json
import os

from metaflow.decorators import StepDecorator


def note(hook, **facts):
    """Write down that a hook was called, with what."""
    with open(os.environ["ELSEWHERE_NOTES"], "a") as file:
        file.write(json.dumps({"hook": hook, "pid": os.getpid(), **facts}) + "\n")


class ElsewhereDecorator(StepDecorator):
    name = "elsewhere"
    defaults = {"size": 1}  # noqa: RUF012 - as Metaflow has it

    def step_init(self, flow, graph, step_name, decorators, environment, flow_datastore, logger):
        self.datastore = flow_datastore

    def package_init(self, flow, step_name, environment):
        note("package_init", step=step_name)

    def runtime_init(self, flow, graph, package, run_id):
        self.package = package
        note("runtime_init", run=run_id)

    def runtime_task_created(self, task_datastore, task_id, split_index, input_paths, is_cloned, ubf_context):
        note("runtime_task_created", task=task_id, index=split_index, inputs=input_paths)
        self.url, _ = self.datastore.save_data([self.package.blob], len_hint=1)[0]

    def runtime_step_cli(self, cli_args, retry_count, max_user_code_retries, ubf_context):
        note("runtime_step_cli", attempt=retry_count, url=self.url)
        if retry_count <= max_user_code_retries:
            cli_args.commands = ["elsewhere", "step"]
            cli_args.command_args.append(self.url)
            cli_args.command_options["size"] = self.attributes["size"]


class NotedDecorator(StepDecorator):
    """Has the variants of the hooks that take what they need from the context, and changes a variable alone."""

    name = "noted"

    def package_init_ctx(self, step_name):
        note("package_init_ctx", step=step_name)

    def runtime_init_ctx(self, step_name):
        note("runtime_init_ctx", run=self.system_ctx.run_id, phase=self.system_ctx.phase.value)

    def runtime_task_created_ctx(self, step_name):
        note("runtime_task_created_ctx", task=self.system_ctx.task_id)

    def runtime_step_cli_ctx(self, step_name, cli_args):
        note("runtime_step_cli_ctx", attempt=self.system_ctx.retry_count)
        cli_args.env["NOTED"] = step_name

    def task_pre_step_ctx(self, step_name):
        note("task_pre_step_ctx", phase=self.system_ctx.phase.value)
