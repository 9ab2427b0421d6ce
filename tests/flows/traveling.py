import os
from pathlib import Path

import carried
import traveling_helper
from metaflow import FlowSpec, IncludeFile, exit_hook, step


def wave():
    print("bye from", Path(__file__).parent)


@exit_hook(on_success=[wave])
class TravelingFlow(FlowSpec):
    """Runs where nothing of it is, but for its code package."""

    words = IncludeFile("words", default="words.txt")

    @step
    def start(self):
        self.said = traveling_helper.say(self.words)
        self.carried = carried.LUGGAGE
        self.folder = os.getcwd()
        self.next(self.end)

    @step
    def end(self):
        self.result = 10 * len(self.said)


if __name__ == "__main__":
    TravelingFlow()
