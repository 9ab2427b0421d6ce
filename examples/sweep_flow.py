"""A sweep: a foreach whose tasks are Dagster steps of their own, and a switch that sends each the way it deserves."""

import random

from metaflow import FlowSpec, Parameter, retry, step


class SweepFlow(FlowSpec):
    """Looks for the lowest point of a curve from several starting points, and polishes the promising ones."""

    starts = Parameter("starts", default=6, help="How many starting points to try.")

    @step
    def start(self):
        """Draw the starting points."""
        rng = random.Random(1)
        self.points = [rng.uniform(-3, 3) for _ in range(self.starts)]
        self.next(self.descend, foreach="points")

    @retry(times=1, minutes_between_retries=0)
    @step
    def descend(self):
        """Walk downhill from one point."""
        self.x = self.descended(self.input, step_size=0.05, steps=20)
        self.verdict = "promising" if self.height(self.x) < 1 else "poor"
        print(f"point {self.index}: from {self.input:.2f} to {self.x:.2f}, {self.verdict}")
        self.next({"promising": self.polish, "poor": self.drop}, condition="verdict")

    @step
    def polish(self):
        """Go on in smaller steps."""
        self.x = self.descended(self.x, step_size=0.01, steps=200)
        self.next(self.score)

    @step
    def drop(self):
        """Leave it as it is."""
        self.next(self.score)

    @step
    def score(self):
        """See how low the point lies."""
        self.low = self.height(self.x)
        self.next(self.choose)

    @step
    def choose(self, inputs):
        """Keep the lowest point."""
        best = min(inputs, key=lambda candidate: candidate.low)
        self.best = (best.x, best.low)
        self.next(self.end)

    @step
    def end(self):
        """Show it."""
        print(f"the lowest point is at {self.best[0]:.3f}, with height {self.best[1]:.3f}")

    def height(self, x):
        """The curve: two valleys, of which one is lower."""
        return (x * x - 4) ** 2 / 8 + x / 2 + 1

    def descended(self, x, step_size, steps):
        """A point after some steps downhill."""
        for _ in range(steps):
            x -= step_size * (x * (x * x - 4) / 2 + 0.5)
        return x


if __name__ == "__main__":
    SweepFlow()
