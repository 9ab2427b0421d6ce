import os

from metaflow import FlowSpec, catch, current, retry, step


class RetriesFlow(FlowSpec):
    """Steps that fail in their first attempts, in several ways."""

    @retry(times=2, minutes_between_retries=0)
    @step
    def start(self):
        print(f"attempt {current.retry_count} of start")
        if current.retry_count < 2:
            raise ValueError(f"not in attempt {current.retry_count}")
        self.attempt = current.retry_count
        self.next(self.caught)

    @catch(var="problem", print_exception=False)
    @retry(times=1, minutes_between_retries=0)
    @step
    def caught(self):
        self.reached = current.retry_count
        raise KeyError("always")
        self.next(self.crashes)

    @catch(var="crash", print_exception=False)
    @retry(times=1, minutes_between_retries=0)
    @step
    def crashes(self):
        os._exit(3)
        self.next(self.end)

    @step
    def end(self):
        self.caught_problem = str(self.problem)
        self.caught_crash = str(self.crash)


if __name__ == "__main__":
    RetriesFlow()
