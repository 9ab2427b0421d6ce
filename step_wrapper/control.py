"""The socket between a step's process and its supervisor: each message of the step is one byte."""

from __future__ import annotations

# The wrapper clones what the run resumes, or looks whether there is something to clone.
CLONES = b"c"
# Metaflow's own `step` command runs, from which the step's code starts and ends.
STEP_STARTS = b"i"
CODE_STARTS = b"s"
CODE_ENDS = b"e"
# The step's process is about to become another command, and waits for an answer.
HANDS_OVER = b"h"
STEP_ENDS = b"x"
REPORTED = b"r"
