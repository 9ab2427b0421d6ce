"""A step whose code runs on another system, as the supervisor sees it: by the lines of the command that waits there.

That command is Metaflow's own (`python flow.py kubernetes step ...`). It prints the lines of the remote log as they
come, with the marks of Metaflow's log format, and lines of its own. The remote side stores its log itself.
"""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, NamedTuple

from step_wrapper import wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagster_pipes import PipesContext


# The source that lines of the remote stderr are given, which Metaflow's command tells from those of stdout no more.
STDERR_SOURCE = b"task-stderr"
# An address of a job, with {id}, {namespace} and {system}: where its dashboard is, if it has one.
URL_VARIABLE = "METAFLOW_PIPES_JOB_URL"
_BATCH_URL = "https://{region}.console.aws.amazon.com/batch/home?region={region}#jobs/detail/{id}"
_NAMES = {"kubernetes": "Kubernetes", "batch": "AWS Batch"}
# As `metaflow.mflog.mflog.RE`: a mark that is to be kept, the source, and the line.
_STRUCTURED = re.compile(rb"(\[!)?(\[MFLOG\|[^|\]]*\|[^|\]]*\|([^|\]]*)\|[^\]]*\])(.*)", re.DOTALL)
# The job that each line begins with, as `metaflow.mflog.refine` has it.
_PREFIX = re.compile(rb"\[((?:(?:pod|job|jobset) )?[^\]\s]+)\](?: |$)")
# How the last line of Metaflow's commands ends where they know of no reason why a job has failed.
_UNEXPLAINED = "This could be a transient error. Use @retry to retry."
_STARTING = re.compile(rb"\[([^\]]+)\] Task is starting \((?:status )?(.+)\)\.\.\.")


class Line(NamedTuple):
    """A line of the command, in the form in which it is passed on and kept.

    Attributes:
        shown: The line as it is passed on.
        is_error: Whether it is passed on to stderr.
        stored: The line as it is kept beside what the remote side stores; None if that has it.
        is_marked: Whether what is stored has a mark of the log format.
    """

    shown: bytes
    is_error: bool
    stored: bytes | None
    is_marked: bool = False


class RemoteStep:
    """A step that runs on another system.

    Args:
        system: The group of Metaflow's commands that runs it.
        namespace: The namespace of Kubernetes, or None.
        context: The open Pipes session, which hears of the job.
        on_start: Called when the job's container begins, behind all queues.
    """

    def __init__(self, system: str, namespace: str | None, context: PipesContext, on_start: Callable[[], None]):
        self.system = system
        self.job = wire.Job(system=self.system, namespace=namespace, id=None, url=None)
        self._context = context
        self._on_start = on_start
        self._launched = time.monotonic()
        self._state = b""
        self._ids: set[bytes] = set()
        self.has_started = False
        self._tell_job()

    @property
    def name(self) -> str:
        """The job, as a message names it."""
        return job_name(self.job)

    def take(self, line: bytes, *, is_error: bool) -> Line:
        """A line of the command, as it is passed on and kept.

        Args:
            line: The line, without its end.
            is_error: Whether it has come from the command's stderr.
        """
        structured = _STRUCTURED.fullmatch(line)
        if structured is None:
            self._look_at(line)
            return Line(line, is_error, line)
        if not self.has_started:
            self.has_started = True
            waited = time.monotonic() - self._launched
            self._context.log.info(f"{_capital(self.name)} has started after {waited:.1f} s.")
            self._on_start()
        to_be_kept, mark, source, text = structured.groups()
        prefix = _PREFIX.match(text)
        if prefix is not None and (prefix[1] in self._ids or prefix[1].startswith((b"pod ", b"job", b"jobset "))):
            text = text[prefix.end() :]
        return Line(text, is_error or source == STDERR_SOURCE, mark + text if to_be_kept else None, is_marked=True)

    def _look_at(self, line: bytes) -> None:
        """Take note of the job's id and of how it waits."""
        match = _STARTING.search(line)
        if match is None:
            return
        job_id, state = match.groups()
        self._ids.add(job_id)
        known = job_id.decode(errors="replace")
        if self.job["id"] != known:
            self.job = wire.Job(
                system=self.system, namespace=self.job["namespace"], id=known, url=_url(self.job, known)
            )
            self._tell_job()
        if state != self._state:
            self._state = state
            self._context.log.info(f"{_capital(self.name)} is starting: {state.decode(errors='replace')}.")

    def _tell_job(self) -> None:
        self._context.report_custom_message(wire.job_message(self.job))


def job_name(job: wire.Job) -> str:
    """A job as a message names it: `the Kubernetes pod t-1-abc in the namespace default`."""
    system = _NAMES.get(job["system"], job["system"])
    job_id = job["id"]
    kind = "job" if job_id is None or not job_id.startswith(("pod ", "job ", "jobset ")) else ""
    named = " ".join(filter(None, [system, kind, job_id]))
    return f"the {named}" + (f" in the namespace {job['namespace']}" if job["namespace"] else "")


def joined_stderr(of_job: str, of_command: str) -> str:
    """The ends of both stderrs of a step, of which the last line is to say why it has failed.

    Args:
        of_job: The end of the job's own.
        of_command: The end of that of the command which has waited for the job.
    """
    is_unexplained = of_command.rstrip().endswith(_UNEXPLAINED)
    ends = (of_command, of_job) if is_unexplained else (of_job, of_command)
    return "\n".join(filter(None, (end.rstrip() for end in ends)))


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _url(job: wire.Job, job_id: str) -> str | None:
    """The address where a job can be looked at, or None."""
    template = os.environ.get(URL_VARIABLE)
    region = os.environ.get("AWS_REGION", os.environ.get("AWS_DEFAULT_REGION"))
    if template is None and job["system"] == "batch" and region is not None:
        template = _BATCH_URL
    if template is None:
        return None
    values = {"id": job_id.rpartition(" ")[2], "namespace": job["namespace"] or "", "system": job["system"]}
    for name, value in {**values, "region": region or ""}.items():
        template = template.replace(f"{{{name}}}", value)
    return template
