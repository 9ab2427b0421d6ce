"""`python -m metaflow_pipes.io REQUEST`: an artifact for another process, read with the settings of this one."""

import sys

from metaflow_pipes.io.artifacts import answer

if __name__ == "__main__":
    sys.stdout.buffer.write(answer(sys.argv[1]))
