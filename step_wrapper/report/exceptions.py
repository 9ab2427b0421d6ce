"""Exceptions of the step's code, without the frames of Metaflow and of the wrapper."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from types import TracebackType

    from step_wrapper.wire import SerializedException

# Of an endless recursion, the first and the last frames say all.
MAX_FRAMES = 40
# How many exceptions of a chain (`raise ... from ...`) are told.
MAX_CHAIN = 5
MAX_MESSAGE_CHARACTERS = 2_000
# The packages whose frames of a traceback are not the user's.
FRAMEWORK = ("step_wrapper", "metaflow", "metaflow_extensions.metaflow_pipes")
# The module of Metaflow through whose frames an error has come that its service is the cause of.
METADATA_SERVICE = "metaflow.plugins.metadata_providers.service"
# What Metaflow's @timeout adds to its message: a stack that begins with the frames of whoever runs the step.
TIMEOUT_STACK = "\nStack when the timeout was raised:"


def described(error: BaseException) -> str:
    """An exception as `Type: message`."""
    format_message = getattr(error, "format_message", None)
    if callable(format_message):  # click's errors name the option there alone
        return f"{type(error).__name__}: {format_message()}"
    return "".join(traceback.format_exception_only(error)).partition(TIMEOUT_STACK)[0].strip()


def cause_of_failure(error: BaseException) -> str:
    """An exception by which a step failed, as `Type: message`; where Metaflow's service is its cause, that is named."""
    frames = traceback.walk_tb(error.__traceback__)
    if any(frame.f_globals.get("__name__") == METADATA_SERVICE for frame, _ in frames):
        url = urlsplit(str(sys.modules[METADATA_SERVICE].ServiceMetadataProvider.INFO))
        # an address may hold a password
        address = url._replace(netloc=url.netloc.rpartition("@")[2]).geturl()
        return f"Metaflow's metadata service {address} could not be used: {described(error)}"
    return described(error)


def user_traceback(error: BaseException) -> str:
    """The traceback of an exception from the first frame that is the user's own; empty if none is."""
    shown = skip_framework(error.__traceback__)
    if shown is None:
        return ""
    return "".join(traceback.format_exception(type(error), error, shown)).partition(TIMEOUT_STACK)[0].rstrip()


def serialized(error: BaseException, depth: int = MAX_CHAIN) -> SerializedException:
    """An exception, its user's frames and the exceptions that led to it, as the report holds them.

    Args:
        error: The exception.
        depth: How many exceptions of its chain are told.
    """
    frames = [(f.filename, f.lineno or 0, f.name) for f in traceback.extract_tb(skip_framework(error.__traceback__))]
    if len(frames) > MAX_FRAMES:
        frames = [*frames[: MAX_FRAMES // 2], *frames[-MAX_FRAMES // 2 :]]
    context = None if error.__suppress_context__ or error.__cause__ is not None else error.__context__
    return {
        "module": type(error).__module__,
        "type": type(error).__qualname__,
        "message": shortened(_message(error), MAX_MESSAGE_CHARACTERS),
        "frames": frames,
        "cause": serialized(error.__cause__, depth - 1) if error.__cause__ is not None and depth > 1 else None,
        "context": serialized(context, depth - 1) if context is not None and depth > 1 else None,
    }


def _message(error: BaseException) -> str:
    try:
        text = str(error).partition(TIMEOUT_STACK)[0]
        return "\n".join([text, *map(str, getattr(error, "__notes__", ()))])
    except Exception as broken:  # of the user's own `__str__`
        return f"<its message can't be shown: {type(broken).__name__}>"


def skip_framework(frames: TracebackType | None) -> TracebackType | None:
    """A traceback from its first frame that is neither Metaflow's nor the wrapper's; None if there is none."""
    while frames is not None and is_framework(frames):
        frames = frames.tb_next
    return frames


def is_framework(frame: TracebackType) -> bool:
    """Whether a frame of a traceback is Metaflow's, the wrapper's or the extension's."""
    file = Path(frame.tb_frame.f_code.co_filename)
    packages = [sys.modules.get(name) for name in FRAMEWORK]
    return any(
        package is not None and package.__file__ is not None and file.is_relative_to(Path(package.__file__).parent)
        for package in packages
    )


def shortened(text: str, limit: int) -> str:
    """A text with its middle left out if it is longer than a limit, in characters."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters ...]\n{text[-half:]}"
