import os
import signal

from metaflow import FlowSpec, Parameter, catch, current, environment, retry, step, timeout
from metaflow.plugins import STEP_DECORATORS

(Elsewhere,) = [each for each in STEP_DECORATORS if each.name == "elsewhere"]
(Noted,) = [each for each in STEP_DECORATORS if each.name == "noted"]


def elsewhere(f):
    f.decorators.append(Elsewhere(attributes={"size": 3}, statically_defined=True))
    return f


def noted(f):
    f.decorators.append(Noted(statically_defined=True))
    return f


class ElsewhereFlow(FlowSpec):
    """Steps that an extension's decorator runs on another system."""

    alpha = Parameter("alpha", default=0.5)

    @elsewhere
    @step
    def start(self):
        self.items = [1, 2]
        self.folder = os.getcwd()
        self.next(self.work, foreach="items")

    @environment(vars={"COLOR": "green"})
    @timeout(seconds=60)
    @retry(times=1, minutes_between_retries=0.01)
    @elsewhere
    @step
    def work(self):
        from dagster_pipes import PipesContext

        PipesContext.get().log.info("nobody hears this")
        print("item", self.input, flush=True)
        if self.input == 2 and current.retry_count == 0:
            raise ValueError("on purpose")
        self.color, self.plain, self.secret = (os.environ.get(name) for name in ("COLOR", "PLAIN", "SECRET"))
        self.result = self.alpha * self.input
        self.next(self.join)

    @noted
    @step
    def join(self, inputs):
        self.results = [i.result for i in inputs]
        self.seen = {name: getattr(inputs[0], name) for name in ("color", "plain", "secret")}
        self.noted = os.environ.get("NOTED")
        self.next(self.end)

    @catch(var="problem")
    @elsewhere
    @step
    def end(self):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    ElsewhereFlow()
