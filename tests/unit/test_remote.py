"""The lines of a command that waits for a job on another system, and the jobs that they tell of."""

from __future__ import annotations

import types

import pytest

from metaflow_pipes.runtime.remote import job_in, job_metadata
from step_wrapper import wire
from step_wrapper.remote import RemoteStep, joined_stderr

MARK = b"[MFLOG|0|2026-01-02T03:04:05.678901Z|task|1-2-3]"


class _Session:
    """A Pipes session that keeps what it is told."""

    def __init__(self):
        self.logged: list[str] = []
        self.messages: list[object] = []
        self.log = types.SimpleNamespace(info=self.logged.append)
        self.report_custom_message = self.messages.append


@pytest.fixture
def session() -> _Session:
    return _Session()


@pytest.fixture
def started() -> list[str]:
    return []


@pytest.fixture
def remote(session, started) -> RemoteStep:
    return RemoteStep("kubernetes", "science", session, on_start=lambda: started.append("now"))


STARTING = b"[pod t-1-ab-cd] Task is starting (Pod is pending, Container is waiting - ContainerCreating)..."


def test_line_of_the_job_is_passed_on_without_prefixes_and_stored_there(remote):
    remote.take(STARTING, is_error=False)
    line = remote.take(MARK + b"[pod t-1-ab-cd] [INFO] hello", is_error=False)
    assert line == (b"[INFO] hello", False, None, True)
    assert remote.take(MARK + b"[pod t-1-ab-cd]", is_error=False).shown == b""
    assert remote.take(MARK + b"[INFO] no prefix", is_error=False).shown == b"[INFO] no prefix"


def test_line_of_the_jobs_stderr_goes_to_stderr(remote):
    mark = MARK.replace(b"|task|", b"|task-stderr|")
    assert remote.take(mark + b"[pod t-1] oh", is_error=False)[:2] == (b"oh", True)


def test_line_of_the_command_itself_is_kept_as_it_is(remote):
    assert remote.take(STARTING, is_error=True) == (STARTING, True, STARTING, False)


def test_line_that_nobody_else_stores_keeps_its_mark(remote):
    assert remote.take(b"[!" + MARK + b"last words", is_error=False) == (
        b"last words",
        False,
        MARK + b"last words",
        True,
    )


def test_queue_and_start_are_told_once(remote, session, started):
    for _ in range(2):
        remote.take(STARTING, is_error=False)
    assert not started
    for _ in range(2):
        remote.take(MARK + b"[pod t-1-ab-cd] Setting up task environment.", is_error=False)
    assert started == ["now"]
    name = "The Kubernetes pod t-1-ab-cd in the namespace science"
    waiting, begins = session.logged
    assert waiting == f"{name} is starting: Pod is pending, Container is waiting - ContainerCreating."
    assert begins.startswith(f"{name} has started after ")


def test_job_is_told_as_soon_as_it_is_known(remote, session):
    assert job_in(session.messages) == wire.Job(system="kubernetes", namespace="science", id=None, url=None)
    remote.take(STARTING, is_error=False)
    job = job_in([*session.messages, {"other": 1}, "text"])
    assert job is not None
    assert job["id"] == "pod t-1-ab-cd"
    shown = {name: value.value for name, value in job_metadata(job).items()}
    assert shown == {
        "compute": "kubernetes",
        "job": "pod t-1-ab-cd",
        "namespace": "science",
        "job_link": "`kubectl --namespace science describe pod t-1-ab-cd`",
    }


@pytest.mark.parametrize(
    ("variables", "system", "namespace", "job", "url"),
    [
        ({"METAFLOW_PIPES_JOB_URL": "https://k/{namespace}/{id}"}, "kubernetes", "a", "pod t-1", "https://k/a/t-1"),
        (
            {"AWS_REGION": "eu-west-1"},
            "batch",
            None,
            "8-9",
            "https://eu-west-1.console.aws.amazon.com/batch/home?region=eu-west-1#jobs/detail/8-9",
        ),
        ({}, "elsewhere", None, "e-1", None),
    ],
)
def test_job_has_a_link(monkeypatch, session, variables, system, namespace, job, url):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    remote = RemoteStep(system, namespace, session, on_start=lambda: None)
    remote.take(f"[{job}] Task is starting (status RUNNABLE)...".encode(), is_error=False)
    assert remote.job["url"] == url


@pytest.mark.parametrize("message", [{}, {"metaflow_job": 1}, {"metaflow_job": {"version": wire.VERSION}}, "x", None])
def test_what_is_no_job_is_none(message):
    assert wire.job_in(message) is None


@pytest.mark.parametrize(
    ("of_job", "of_command", "last"),
    [
        ("Traceback\nno uv", "Error (exit code 1). This could be a transient error. Use @retry to retry.\n", "no uv"),
        ("", "Error (exit code 1). This could be a transient error. Use @retry to retry.", None),
        ("Collecting", "Task ran out of memory.", "Task ran out of memory."),
        ("Killed", "", "Killed"),
    ],
)
def test_stderr_of_a_step_elsewhere_ends_with_what_says_the_most(of_job, of_command, last):
    joined = joined_stderr(of_job, of_command)
    assert joined.splitlines()[-1] == (of_command if last is None else last)
