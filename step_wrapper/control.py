"""The socket between a step's process and its supervisor: each message of the step is one byte."""

from __future__ import annotations

CODE_STARTS = b"s"
CODE_ENDS = b"e"
STEP_ENDS = b"x"
REPORTED = b"r"
