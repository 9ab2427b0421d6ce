import os
import sys
from datetime import timedelta

import sibling
from metaflow import Config, FlowSpec, Parameter, card, current, project, resources, secrets, step
from metaflow.cards import Markdown


@project(name="shop")
class DecoratedFlow(FlowSpec):
    """Decorators whose work Metaflow does inside the step."""

    settings = Config("settings", default_value={"depth": 2, "label": "default"})
    depth = Parameter("depth", default=settings.depth)

    @resources(cpu=2, memory=2048)
    @secrets(sources=[{"type": "inline", "id": "greeting", "options": {"env_vars": {"GREETING": "hi"}}}])
    @card(type="blank", id="shown")
    @step
    def start(self):
        current.card.append(Markdown("# A heading"))
        self.greeting = os.environ["GREETING"]
        self.label = self.settings.label
        self.imported = sibling.VALUE
        self.data_here = open("data.txt").read()
        self.facts = {
            "project": current.project_name,
            "branch": current.branch_name,
            "production": current.is_production,
            "user": current.username,
            "flow": current.flow_name,
            "step": current.step_name,
            "retry": current.retry_count,
            "tags": sorted(tag for tag in current.tags if not tag.startswith("dagster")),
            "parameters": sorted(current.parameter_names),
        }
        self.next(self.end)

    @step
    def end(self):
        self.duration = timedelta(seconds=1)
        self.main_file = sys.modules["__main__"].__file__.rpartition("/")[2]


if __name__ == "__main__":
    DecoratedFlow()
