from metaflow import Config, Deployer, FlowSpec, Parameter, step


class TriggeringFlow(FlowSpec):
    """Deploys and triggers another flow, whose parameters and configs have the names of its own."""

    number = Parameter("number", default=1)
    waits = Parameter("waits", default=True)
    settings = Config("settings", default_value={"depth": 1})

    @step
    def start(self):
        deployed = Deployer("triggered.py", show_output=False).dagster().create(executor="in_process")
        run = deployed.trigger(number=self.number + self.settings.depth)
        self.triggered = run.pathspec
        if self.waits:
            run.wait_for_completion(check_interval=0.2, timeout=120)
            self.seen = (run.status, run.run["start"].task["seen"].data)
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    TriggeringFlow()
