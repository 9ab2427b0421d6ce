"""Artifacts of many kinds: numbers, tables, collections, private, secret, huge and strange ones."""

import decimal

from metaflow import FlowSpec, step


class Strange:
    """Of a class that other processes don't have."""

    def __reduce__(self):
        return Strange, ()


class Reluctant:
    """Can be stored, but not loaded."""

    def __reduce__(self):
        return int, ("no number",)


class ArtifactsFlow(FlowSpec):
    """Makes artifacts of all kinds."""

    @step
    def start(self):
        self.kept = 1
        self.replaced = "before"
        self.next(self.make)

    @step
    def make(self):
        """Make them."""
        self.replaced = "after"
        self.accuracy = 0.75
        self.count = 3
        self.is_good = True
        self.label = "short"
        self.essay = "long " * 1_000
        self.settings = {"depth": 3, "names": ["a", "b"]}
        self.pair = (1, "two")
        self.infinite = float("inf")
        self.giant = 10**30
        self.attempt = 7
        self.huge = list(range(100_000))
        self.strange = Strange()
        self.reluctant = {"inner": Reluctant()}
        self.unsuited = {"value": decimal.Decimal("1.5")}
        self.api_token = "planted"
        self.db_pwd = "planted"
        self.num_tokens = 512
        self.surrogate = "\udc80"
        self._private = {"inner": "state"}
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    ArtifactsFlow()
