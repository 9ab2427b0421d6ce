"""Mutators that react to the decorators of `--with`: no step has a decorator of its own."""

from metaflow import FlowMutator, FlowSpec, StepMutator, current, step


class Patient(StepMutator):
    """Retries become three, wherever somebody asks for one; a step without any gets a time limit."""

    def mutate(self, mutable_step):
        if mutable_step.has_decorator("retry"):
            mutable_step.add_decorator(
                "retry",
                deco_kwargs={"times": 3, "minutes_between_retries": 0},
                duplicates=mutable_step.OVERRIDE,
            )
        else:
            mutable_step.add_decorator("timeout", deco_kwargs={"seconds": 77})


class Sized(FlowMutator):
    """Steps with a time limit get a memory limit."""

    def mutate(self, mutable_flow):
        for _, mutable_step in mutable_flow.steps:
            if mutable_step.has_decorator("timeout"):
                mutable_step.add_decorator("resources", deco_kwargs={"memory": 123})


@Sized
class MutatedFlow(FlowSpec):
    @Patient
    @step
    def start(self):
        self.attempts = current.retry_count
        if self.attempts < 2:
            raise ValueError("not yet")
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    MutatedFlow()
