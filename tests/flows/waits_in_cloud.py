from metaflow import FlowSpec, kubernetes, step


class WaitsInCloudFlow(FlowSpec):
    """A step in Kubernetes."""

    @kubernetes
    @step
    def only(self):
        pass


if __name__ == "__main__":
    WaitsInCloudFlow()
