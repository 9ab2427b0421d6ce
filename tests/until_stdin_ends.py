"""Runs a command until stdin ends, and then ends every process of its group.

The write end of stdin is held by the tests: `dagster dev` can't outlive them, however they end.
"""

import os
import signal
import subprocess
import sys

GRACE_SECONDS = 20

os.setpgid(0, 0)
# This process goes on after SIGTERM. The command must not: ignored signals are inherited, handlers are not,
# and Dagster does with SIGTERM what it does with SIGINT, which shells let background jobs ignore.
signal.signal(signal.SIGTERM, lambda *_: None)
signal.signal(signal.SIGINT, signal.default_int_handler)
command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
sys.stdin.read()
os.killpg(0, signal.SIGTERM)
try:
    command.wait(GRACE_SECONDS)
finally:
    os.killpg(0, signal.SIGKILL)
