import os
import time

from metaflow import Config, FlowSpec, JSONType, Parameter, config_expr, schedule, step


@schedule(cron=config_expr("when.cron"), timezone=config_expr("when.timezone"))
class ScheduledFlow(FlowSpec):
    """Goes on as long as there is a file `wait`."""

    when = Config("when", default_value={"cron": "0/30 9-17 ? * 2-6 *", "timezone": "Europe/Berlin"})
    date = Parameter("date", required=True)
    learning_rate = Parameter("learning-rate", default=0.1)
    year = Parameter("year", type=int)
    settings = Parameter("settings", type=JSONType, default={"depth": 3})

    @step
    def start(self):
        self.seen = (self.date, self.learning_rate, self.year, self.settings)
        self.next(self.end)

    @step
    def end(self):
        while os.path.exists("wait"):
            time.sleep(0.1)


if __name__ == "__main__":
    ScheduledFlow()
