from metaflow import FlowSpec, Parameter, current, step


class OneStepFlow(FlowSpec):
    text = Parameter("text", default="hello")

    @step
    def only(self):
        self.result = self.text.upper()
        self.step_name = current.step_name


if __name__ == "__main__":
    OneStepFlow()
