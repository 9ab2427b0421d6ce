from metaflow import FlowSpec, IncludeFile, JSONType, Parameter, step


def name_of_flow(context):
    return f"{context.flow_name} by {context.user_name}"


def json_at_deploy_time(context):
    return '{"made": "at deploy time"}'


def data_file(context):
    return "data.txt"


class ParametersFlow(FlowSpec):
    """A parameter of each kind."""

    text = Parameter("text", default="a 'b' \"c\"\n{{ d }}", help="Any text.")
    integer = Parameter("integer", default=3)
    fraction = Parameter("fraction", default=0.5)
    flag = Parameter("flag", default=True)
    off = Parameter("off", type=bool, default=False)
    structure = Parameter("structure", type=JSONType, default={"a": [1, None, True]})
    structure_text = Parameter("structure-text", type=JSONType, default="[1, 2]")
    listed = Parameter("listed", default="a,b", separator=",")
    repeated = Parameter("repeated", multiple=True, type=int, default=[1, 2])
    deployed = Parameter("deployed", default=name_of_flow)
    deployed_json = Parameter("deployed-json", type=JSONType, default=json_at_deploy_time)
    dashed = Parameter("learning-rate", default=0.1, help="With a dash.")
    keyword = Parameter("lambda", default=1)
    included = IncludeFile("included", default="data.txt")
    included_binary = IncludeFile("included-binary", is_text=False, default=data_file)

    @step
    def start(self):
        self.next(self.end)

    @step
    def end(self):
        self.types = {name: type(getattr(self, name)).__name__ for name in dir(type(self)) if name in NAMES}


NAMES = [name for name, value in vars(ParametersFlow).items() if isinstance(value, Parameter)]

if __name__ == "__main__":
    ParametersFlow()
