import ctypes
import os
import signal
import subprocess
import sys
import time

from metaflow import FlowSpec, Parameter, current, retry, step, timeout


class TimeoutsFlow(FlowSpec):
    """A step that does not end by itself, in the way that `how` names."""

    how = Parameter("how", default="sleep")

    @timeout(seconds=2)
    @retry(times=1, minutes_between_retries=0)
    @step
    def only(self):
        print(f"in attempt {current.retry_count}", flush=True)
        if current.retry_count:
            return
        if self.how == "sleep":
            time.sleep(60)
        elif self.how == "blocked":
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM, signal.SIGTERM])
            time.sleep(60)
        elif self.how == "c call":
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
            ctypes.CDLL(None).sleep(60)
        elif self.how == "children":
            for new_session in (False, True):
                child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
                process = subprocess.Popen([sys.executable, "-c", child], start_new_session=new_session)
                with open("pids", "a") as file:
                    file.write(f"{process.pid}\n")
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
            os.wait()


if __name__ == "__main__":
    TimeoutsFlow()
