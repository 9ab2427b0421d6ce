from metaflow import FlowSpec, schedule, step, trigger


@schedule(daily=True)
@trigger(event="data_ready")
class DailyFlow(FlowSpec):
    @step
    def start(self):
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    DailyFlow()
