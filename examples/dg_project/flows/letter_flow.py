"""Writes a letter for each segment. An entry of the `dg` project around it."""

import os

from metaflow import FlowSpec, step


class LetterFlow(FlowSpec):
    """Writes the letters of the shop to its customers."""

    @step
    def start(self):
        """Go on to the letter of each segment."""
        self.next(self.to_large, self.to_small)

    @step
    def to_large(self):
        """Write to those who buy much."""
        self.letter = f"{os.environ['GREETING']}! Here is your discount."
        self.next(self.join)

    @step
    def to_small(self):
        """Write to those who buy little."""
        self.letter = f"{os.environ['GREETING']}! Have you seen this?"
        self.next(self.join)

    @step
    def join(self, inputs):
        """Bring the letters together."""
        self.letters = {"large": inputs.to_large.letter, "small": inputs.to_small.letter}
        self.next(self.end)

    @step
    def end(self):
        """Show them."""
        for segment, letter in self.letters.items():
            print(f"{segment}: {letter}")


if __name__ == "__main__":
    LetterFlow()
