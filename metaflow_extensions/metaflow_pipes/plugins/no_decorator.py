"""The step decorator `dagster_internal` where `step_wrapper` is not installed: in a step on another system."""

from __future__ import annotations

import os
from typing import Any

from metaflow.decorators import StepDecorator

from .given import PARAMETERS_VARIABLE, open_pipes, pass_on_parameters, show_triggers


class DagsterInternalDecorator(StepDecorator):
    """Gives a step what it is given in a Dagster run; nobody hears there of what it would report."""

    name = "dagster_internal"

    def step_init(
        self,
        flow: Any,
        graph: Any,
        step_name: str,
        decorators: Any,
        environment: Any,
        flow_datastore: Any,
        logger: Any,
    ) -> None:
        """Before the task begins."""
        if PARAMETERS_VARIABLE in os.environ and step_name == graph.start_step:
            pass_on_parameters(flow, flow_datastore, os.environ[PARAMETERS_VARIABLE])

    def task_pre_step(
        self,
        step_name: str,
        task_datastore: Any,
        metadata: Any,
        run_id: str,
        task_id: str,
        flow: Any,
        graph: Any,
        retry_count: int,
        max_user_code_retries: int,
        ubf_context: Any,
        inputs: Any,
    ) -> None:
        """Just before the step's code runs."""
        show_triggers()
        open_pipes()
