import os
import subprocess
import sys

from metaflow import FlowSpec, Parameter, step
from metaflow.integrations import ArgoEvent

from metaflow_pipes import DagsterEvent


class PublishingFlow(FlowSpec):
    """Publishes events: from a step, as code for Argo Workflows does, from a process of a step."""

    count = Parameter("count", type=int, default=0)

    @step
    def start(self):
        self.in_step = DagsterEvent("data_ready").add_to_payload("rows", 3).publish({"shape": {"x": [1, None]}})
        self.for_argo = ArgoEvent("data_ready").add_to_payload("rows", 4).safe_publish(ignore_errors=False)
        command = "from metaflow_pipes import DagsterEvent; print(DagsterEvent('data_ready').safe_publish({'rows': 5}))"
        self.by_process = subprocess.check_output([sys.executable, "-c", command], text=True).strip()
        for number in range(self.count):
            DagsterEvent("many").publish({"number": number})
        self.too_large = DagsterEvent("data_ready").publish({"rows": "x" * 1_000_000})
        self.next(self.end)

    @step
    def end(self):
        DagsterEvent("before_the_end").publish()
        os._exit(3)


if __name__ == "__main__":
    PublishingFlow()
