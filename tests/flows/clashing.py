from metaflow import FlowSpec, Parameter, step


class ClashingFlow(FlowSpec):
    """Parameters with the names of options of the commands that launch runs."""

    url = Parameter("url", required=True)
    wait = Parameter("wait", type=bool, default=False)
    definitions_file = Parameter("definitions_file", default="none")
    step_to_rerun = Parameter("step-to-rerun", type=int, default=0)
    parameters = Parameter("parameters", default="few")
    help = Parameter("help", default="no help")

    @step
    def start(self):
        self.next(self.end)

    @step
    def end(self):
        self.seen = [self.url, self.wait, self.definitions_file, self.step_to_rerun, self.parameters, self.help]


if __name__ == "__main__":
    ClashingFlow()
