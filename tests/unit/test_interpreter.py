"""The end of the interpreter, after which the process still stores and reports."""

from __future__ import annotations

import subprocess
import sys

import pytest

ENDING = """
import atexit, sys, threading, time
from step_wrapper.step import interpreter
{before}
interpreter.finish()
print("finished", flush=True)
{after}
"""


def _output(before: str, after: str = "") -> list[str]:
    code = ENDING.format(before=before, after=after)
    finished = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    return finished.stdout.splitlines()


@pytest.mark.parametrize(
    "before",
    [
        "threading.Thread(target=lambda: (time.sleep(0.3), print('said'))).start()",
        "threading.Thread(target=lambda: (threading.main_thread().join(), print('said'))).start()",
        "from concurrent.futures import ThreadPoolExecutor\nPOOL = ThreadPoolExecutor(1)\n"
        "POOL.submit(time.sleep, 0.3)\nPOOL.submit(print, 'said')",
        "from concurrent.futures import ThreadPoolExecutor\nThreadPoolExecutor(1).submit(print, 'said')",
        "from concurrent.futures import ProcessPoolExecutor\nimport multiprocessing\n"
        "POOL = ProcessPoolExecutor(1, multiprocessing.get_context('fork'))\n"
        "POOL.submit(time.sleep, 0.3).add_done_callback(lambda _: print('said'))",
        "atexit.register(print, 'said')",
        "atexit.register(print, 'said')\natexit.register(lambda: 1 / 0)\natexit.register(lambda: sys.exit(3))",
    ],
    ids=[
        "thread",
        "thread that waits for the main one",
        "pool",
        "dropped pool",
        "processes",
        "handler",
        "bad handlers",
    ],
)
def test_all_that_python_waits_for_comes_to_its_end_first(before):
    assert _output(before) == ["said", "finished"]


def test_pools_are_closed_to_exit_handlers_as_ever():
    before = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "def submit():\n    try:\n        ThreadPoolExecutor(1).submit(print, 'too late')\n"
        "    except RuntimeError as error:\n        print(error)\n"
        "atexit.register(submit)"
    )
    assert _output(before) == ["cannot schedule new futures after interpreter shutdown", "finished"]


@pytest.mark.parametrize("before", ["", "import concurrent.futures.thread, concurrent.futures.process"])
def test_pools_and_threads_can_be_used_afterwards(before):
    after = (
        "from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor\nimport multiprocessing, tempfile\n"
        "with ThreadPoolExecutor(2) as pool:\n    print(*pool.map(abs, [-1, -2]))\n"
        "with ProcessPoolExecutor(1, multiprocessing.get_context('fork')) as pool:\n    print(*pool.map(abs, [-3]))\n"
        "thread = threading.Thread(target=print, args=('thread',))\nthread.start()\nthread.join()"
    )
    assert _output(before, after) == ["finished", "1 2", "3", "thread"]
