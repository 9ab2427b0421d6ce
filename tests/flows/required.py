from metaflow import FlowSpec, IncludeFile, JSONType, Parameter, step


class RequiredFlow(FlowSpec):
    """Parameters without defaults."""

    number = Parameter("number", type=int)
    needed = Parameter("needed", required=True)
    structure = Parameter("structure", type=JSONType)
    names = Parameter("names", separator=",")
    file = IncludeFile("file")

    @step
    def start(self):
        self.seen = [self.number, self.needed, self.structure, self.names, self.file]
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    RequiredFlow()
