"""Cards: the default one with simple content, several on a step, one of another type, one that is retried."""

from metaflow import FlowSpec, card, current, retry, step
from metaflow.cards import Artifact, Markdown, Table


class CardsFlow(FlowSpec):
    """Makes cards."""

    @card
    @step
    def start(self):
        current.card.append(Markdown("# Three | models"))
        current.card.append(Table([["a | b", 1], ["c", 2.5]], headers=["model", "score"]))
        current.card.append(Artifact({"deep": [1, 2]}))
        self.next(self.several)

    @card(id="left", type="blank")
    @card(id="right", type="blank")
    @card(type="taskspec_card")
    @step
    def several(self):
        current.card["left"].append(Markdown("the left one"))
        current.card["right"].append(Table([[number] for number in range(30)], headers=["n"]))
        self.next(self.retried)

    @card(type="blank")
    @retry(times=1, minutes_between_retries=0)
    @step
    def retried(self):
        current.card.append(Markdown(f"attempt {current.retry_count}"))
        if current.retry_count == 0:
            raise ValueError("once more")
        self.next(self.end)

    @card
    @step
    def end(self):
        pass


if __name__ == "__main__":
    CardsFlow()
