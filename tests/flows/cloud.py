import os
import signal
import sys
import time
from pathlib import Path

from metaflow import FlowSpec, Parameter, card, catch, current, dagster_check, environment, kubernetes, retry, step
from metaflow.cards import Markdown


def wait_until_heard():
    """Wait until the test has seen what is printed so far."""
    # in the folder of the cluster
    heard = Path.home().parent.parent / "heard"
    give_up_at = time.monotonic() + 60
    while not heard.exists():
        assert time.monotonic() < give_up_at, "nobody has heard it"
        time.sleep(0.1)


class CloudFlow(FlowSpec):
    """A step in Kubernetes, which fails once, and one that dies there and is caught here."""

    alpha = Parameter("alpha", default=0.5)

    @step
    def start(self):
        self.items = [1]
        self.next(self.work, foreach="items")

    @dagster_check("positive")
    @card
    @environment(vars={"COLOR": "green"})
    @retry(times=1, minutes_between_retries=0)
    @kubernetes(cpu=2, memory=1000, secrets="vault")
    @step
    def work(self):
        from dagster_pipes import PipesContext

        PipesContext.get().log.info("nobody hears this")
        current.card.append(Markdown("# In the pod"))
        print("working on", self.input, flush=True)
        print("to stderr", file=sys.stderr, flush=True)
        if current.retry_count == 0:
            raise ValueError("on purpose")
        wait_until_heard()
        dagster_check.report("positive", self.input > 0)
        self.seen = {name: os.environ.get(name) for name in ("COLOR", "PLAIN", "TOKEN", "KEY", "METAFLOW_RUNTIME_NAME")}
        self.workload = "METAFLOW_KUBERNETES_WORKLOAD" in os.environ
        self.result = self.input * self.alpha
        self.next(self.join)

    @step
    def join(self, inputs):
        self.results = [i.result for i in inputs]
        self.next(self.end)

    @catch(var="problem")
    @kubernetes
    @step
    def end(self):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    CloudFlow()
