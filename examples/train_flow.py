"""Fits two models side by side and keeps the better one: parameters, a split, a retry, a card."""

import math
import os
import random
import time

from metaflow import FlowSpec, Parameter, card, current, environment, resources, retry, step, timeout
from metaflow.cards import Markdown, Table


def predict(weights, point):
    """The probability of class 1, by logistic regression."""
    return 1 / (1 + math.exp(-sum(w * x for w, x in zip(weights, point, strict=True))))


def fit(points, labels, learning_rate, epochs, pause):
    """Weights by gradient descent."""
    if learning_rate <= 0:
        raise ValueError(f"the learning rate must be positive, not {learning_rate}")
    weights = [0.0] * len(points[0])
    for epoch in range(epochs):
        for point, label in zip(points, labels, strict=True):
            error = predict(weights, point) - label
            weights = [w - learning_rate * error * x for w, x in zip(weights, point, strict=True)]
        if epoch % 10 == 0:
            print(f"epoch {epoch}: accuracy {accuracy(weights, points, labels):.3f}")
            time.sleep(pause)
    return weights


def accuracy(weights, points, labels):
    """The share of points whose class is predicted right."""
    hits = [(predict(weights, p) > 0.5) == bool(label) for p, label in zip(points, labels, strict=True)]
    return sum(hits) / len(hits)


def linear(x, y):
    """Features of a straight border."""
    return [1.0, x, y]


def quadratic(x, y):
    """Features of a curved border."""
    return [1.0, x, y, x * x, y * y, x * y]


class TrainFlow(FlowSpec):
    """Learns to tell points inside a circle from those outside, with two kinds of features."""

    learning_rate = Parameter("learning-rate", default=0.1, help="The step size of gradient descent.")
    epochs = Parameter("epochs", default=30, help="How often each model sees the data.")
    size = Parameter("size", default=300, help="How many points to draw.")
    pause = Parameter("pause", default=0.0, help="Seconds to wait after each line of the log, to watch it grow.")

    @environment(vars={"RANDOM_SEED": "7"})
    @step
    def start(self):
        """Draw the points."""
        rng = random.Random(int(os.environ["RANDOM_SEED"]))
        self.raw = [(rng.uniform(-1, 1), rng.uniform(-1, 1)) for _ in range(self.size)]
        self.labels = [int(x * x + y * y < 0.5) for x, y in self.raw]
        print(f"{self.size} points, {sum(self.labels)} of them inside")
        self.next(self.fit_linear, self.fit_quadratic)

    @timeout(minutes=2)
    @step
    def fit_linear(self):
        """Fit a straight border."""
        self.model = "linear"
        self.train(linear)
        self.next(self.choose)

    @resources(cpu=1, memory=512)
    @retry(times=2, minutes_between_retries=0)
    @timeout(minutes=2)
    @environment(vars={"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"})
    @step
    def fit_quadratic(self):
        """Fit a curved border; its first attempt fails, to show a retry."""
        if current.retry_count == 0:
            raise ConnectionError("the data server did not answer (a simulated failure)")
        self.model = "quadratic"
        self.train(quadratic)
        self.next(self.choose)

    def train(self, features):
        """Fit and score a model with the given features."""
        points = [features(x, y) for x, y in self.raw]
        half = len(points) // 2
        self.weights = fit(points[:half], self.labels[:half], self.learning_rate, self.epochs, self.pause)
        self.score = accuracy(self.weights, points[half:], self.labels[half:])

    @step
    def choose(self, inputs):
        """Keep the better model."""
        self.scores = {branch.model: branch.score for branch in inputs}
        best = max(inputs, key=lambda branch: branch.score)
        self.best_model, self.best_score, self.weights = best.model, best.score, best.weights
        self.next(self.end)

    @card
    @step
    def end(self):
        """Show the result, on a card too."""
        print(f"best model: {self.best_model}, accuracy {self.best_score:.3f}")
        current.card.append(Markdown(f"# The {self.best_model} model wins"))
        rows = [[model, f"{score:.3f}"] for model, score in sorted(self.scores.items())]
        current.card.append(Table(rows, headers=["model", "accuracy"]))


if __name__ == "__main__":
    TrainFlow()
