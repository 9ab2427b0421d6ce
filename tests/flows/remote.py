import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from metaflow import FlowSpec, card, current, retry, step
from metaflow.cards import Markdown
from metaflow.plugins import DATASTORES

# Stays open until the process ends, as pools of libraries do.
POOL = ThreadPoolExecutor(2)


def is_log_stored(text):
    """Whether the datastore holds a text in the log of this step, which runs."""
    (storage_class,) = [storage for storage in DATASTORES if storage.TYPE == "s3"]
    storage = storage_class(storage_class.get_datastore_root_from_config(print))
    with storage.load_bytes([f"{current.pathspec}/{current.retry_count}.runtime_stdout.log"]) as logs:
        return any(file is not None and text in Path(file).read_text() for _, file, _ in logs)


class RemoteFlow(FlowSpec):
    """Uses what a datastore is used for; its last step fails until a file `ready` stands beside it."""

    @card
    @step
    def start(self):
        current.card.append(Markdown("# On the shelf"))
        self.table = pd.DataFrame({"id": [1, 2, 3]})
        # Metaflow stores more than ten artifacts in a process of its own
        for number in range(12):
            setattr(self, f"part_{number}", number)
        self.items = [0, 1]
        self.next(self.work, foreach="items")

    @retry(times=1, minutes_between_retries=0)
    @step
    def work(self):
        print(f"item {self.input}, attempt {current.retry_count}")
        if current.retry_count == 0:
            if self.input:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("on purpose")
        self.result = 10 * self.input
        self.next(self.join)

    @step
    def join(self, inputs):
        self.results = [i.result for i in inputs]
        for _ in range(4):
            POOL.submit(lambda: (time.sleep(0.2), print("pool")))
        threading.Thread(target=lambda: (time.sleep(0.4), print("thread"))).start()
        self.next(self.end)

    @step
    def end(self):
        print("early")
        sys.stdout.flush()
        if not Path("ready").exists():
            give_up_at = time.monotonic() + 60
            while not is_log_stored("early"):
                assert time.monotonic() < give_up_at
                time.sleep(0.2)
            raise ValueError("not ready")


if __name__ == "__main__":
    RemoteFlow()
