import os
import sys

from metaflow import Config, FlowMutator, FlowSpec, StepMutator, config_expr, environment, step


class add_by_flow_mutator(FlowMutator):
    def pre_mutate(self, mutable_flow):
        for name, mutable_step in mutable_flow.steps:
            if name == "mutated":
                mutable_step.add_decorator("environment", deco_kwargs={"vars": {"FROM_FLOW_MUTATOR": "yes"}})


class add_by_step_mutator(StepMutator):
    def mutate(self, mutable_step):
        mutable_step.add_decorator(
            environment, deco_kwargs={"vars": {"FROM_STEP_MUTATOR": "yes"}}, duplicates=mutable_step.IGNORE
        )


@add_by_flow_mutator
class EnvironmentsFlow(FlowSpec):
    """Records the environment of each of its steps."""

    settings = Config("settings", default_value={"region": "north", "threads": 3})

    @environment(
        vars={
            "PLAIN": "plain",
            "NUMBER": 3,
            "FRACTION": 0.5,
            "FLAG": True,
            "NOTHING": None,
            "EMPTY": "",
            "AWKWARD": "a=b 'c' \"d\"\n$HOME {{e}} {% f %} \\ \u00e9\u4e16",
            "FROM_RUN": "from the step",
            "FROM_STEP_ENV": "from the step",
            "PYTHONHASHSEED": "7",
            "PYTHONOPTIMIZE": "1",
            "METAFLOW_CONTACT_INFO": '{"a": "b"}',
            "METAFLOW_RUNTIME_NAME": "of the step",
        }
    )
    @step
    def start(self):
        self.seen = dict(os.environ)
        self.optimize = sys.flags.optimize
        self.hash = hash("a string")
        from metaflow.metaflow_config import CONTACT_INFO

        self.contact = CONTACT_INFO
        self.next(self.computed)

    @environment(vars={"REGION": settings.region, "THREADS": config_expr("str(settings.threads * 2)")})
    @step
    def computed(self):
        self.seen = dict(os.environ)
        self.next(self.mutated)

    @step
    def mutated(self):
        self.seen = dict(os.environ)
        self.next(self.end)

    @add_by_step_mutator
    @step
    def end(self):
        self.seen = dict(os.environ)


if __name__ == "__main__":
    EnvironmentsFlow()
