import ctypes
import os
import signal
import sys
import time

from metaflow import FlowSpec, current, retry, step, timeout


def say(name):
    """Print two lines, the last one unfinished, to each stream."""
    for stream in (sys.stdout, sys.stderr):
        print(f"{name} says\nin attempt {current.retry_count}", end="", file=stream)


class EndingsFlow(FlowSpec):
    """Its steps print something and end badly, each in its own way, twice."""

    @step
    def start(self):
        self.next(self.raises, self.killed, self.crashes, self.overtime)

    @retry(times=1, minutes_between_retries=0)
    @step
    def raises(self):
        say("raises")
        if current.retry_count >= 0:
            raise ValueError("on purpose")
        self.next(self.join)

    @retry(times=1, minutes_between_retries=0)
    @step
    def killed(self):
        say("killed")
        os.kill(os.getpid(), signal.SIGKILL)
        self.next(self.join)

    @retry(times=1, minutes_between_retries=0)
    @step
    def crashes(self):
        say("crashes")
        ctypes.string_at(0)
        self.next(self.join)

    @retry(times=1, minutes_between_retries=0)
    @timeout(seconds=2)
    @step
    def overtime(self):
        # Metaflow's own timeout does not come through
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        say("overtime")
        time.sleep(60)
        self.next(self.join)

    @step
    def join(self, inputs):
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    EndingsFlow()
