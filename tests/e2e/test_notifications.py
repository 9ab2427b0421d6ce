"""`create --notify-on-error --notify-on-success`: one message per run, for Slack, a webhook, or by e-mail."""

from __future__ import annotations

import http.server
import json
import re
import socketserver
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ended_runs import Ticks, engine_events, instance_in, run_job, until
from metaflow import Deployer
from support import Project, job_of, load

from metaflow_pipes import DagsterCompiler
from metaflow_pipes.deployment.definitions_file import read_deployment
from metaflow_pipes.runs.local import LocalInstance
from metaflow_pipes.runtime import notification_sensor
from metaflow_pipes.runtime.automation import notifications
from metaflow_pipes.runtime.automation.follow_ups import follow_up_on

if TYPE_CHECKING:
    from collections.abc import Iterator

    import dagster as dg

URL_OF_A_SECRET = "https://hooks.slack.com/services/T00/B00/secret-of-slack"


@dataclass
class Receiver:
    """A receiver on the loopback address."""

    port: int
    answers: list[int] = field(default_factory=list)
    messages: list[Any] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/secret-path"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A webhook, which answers 200 unless `answers` says something else."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(got.answers.pop(0) if got.answers else 200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        got = Receiver(server.server_address[1])
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield got
        server.shutdown()


@pytest.fixture
def mail_server() -> Iterator[Receiver]:
    """A mail server without encryption."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 here\r\n")
            while line := self.rfile.readline().strip():
                if line.upper() == b"DATA":
                    self.wfile.write(b"354 go on\r\n")
                    lines = list(iter(lambda: self.rfile.readline().strip(), b"."))
                    got.messages.append(b"\n".join(lines).decode())
                self.wfile.write(b"221 bye\r\n" if line.upper() == b"QUIT" else b"250 well\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        got = Receiver(server.server_address[1])
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield got
        server.shutdown()


@pytest.fixture(scope="module")
def flows(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project.of(tmp_path_factory.mktemp("notifications") / "project", "hooked.py", "hooked_helpers.py")
    # the flow without its hooks
    source = (project.folder / "hooked.py").read_text()
    project.write("hooked.py", "\n".join(line for line in source.splitlines() if not line.startswith("@exit_hook")))
    project.compile("hooked.py", "--notify-on-error", "--notify-webhook-url", "env:WEBHOOK")
    return project


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    yield from instance_in(tmp_path_factory.mktemp("instance") / "home")


@pytest.fixture(scope="module")
def failed(flows: Project, instance: dg.DagsterInstance) -> str:
    """A run whose last step has failed."""
    return run_job(flows, instance, ending="failure")


_names = (f"sensor_{number}" for number in range(100))


def tell(flows: Project, instance: dg.DagsterInstance, run_id: str, **options: Any) -> str:
    """Have a sensor of these options tell of a run; what the run's events say then."""
    definitions = flows.folder / "defs.py"
    sensor: Any = notification_sensor(load(definitions).FLOW, job_of(definitions), on_error=True, **options)
    one = replace(sensor.follow_up, name=next(_names))
    before = engine_events(instance, run_id)
    follow_up_on(instance, run_id, one)
    return engine_events(instance, run_id).removeprefix(before)


def test_webhook_gets_all_about_a_failed_run(flows, instance, failed, receiver, monkeypatch):
    monkeypatch.setenv("DAGSTER_WEBSERVER_URL", "https://dagster.example.com/")
    monkeypatch.setenv("METAFLOW_UI_URL", "https://metaflow.example.com")
    events = tell(flows, instance, failed, webhook_url=receiver.url)
    assert "The message to the webhook is sent." in events
    (message,) = receiver.messages
    text, seconds = message.pop("text"), message.pop("duration_seconds")
    assert 0 < seconds < 120
    run_id = f"dagster-{failed}"
    assert message == {
        "flow": "HookedFlow",
        "run_id": run_id,
        "dagster_run_id": failed,
        "job": "HookedFlow",
        "status": "failed",
        "user": "tester",
        "triggered_by": "tester, by hand",
        "failed_step": "end",
        "exception_type": "ValueError",
        "exception": "the step fails on purpose",
        "dagster_url": f"https://dagster.example.com/runs/{failed}",
        "metaflow_url": f"https://metaflow.example.com/HookedFlow/{run_id}",
    }
    assert text.startswith(
        f"HookedFlow/{run_id} failed in step end\n\nException: ValueError: the step fails on purpose"
    )


def test_slack_gets_its_own_markup(flows, instance, failed, receiver, monkeypatch):
    monkeypatch.setenv("SLACK", receiver.url)
    instance.add_run_tags(
        failed,
        {"dagster/sensor_name": "orders", "metaflow/triggers": json.dumps([{"name": "a<b", "id": "1"}, {"name": "c"}])},
    )
    tell(flows, instance, failed, slack_webhook_url="env:SLACK")
    (message,) = receiver.messages
    lines = message["text"].splitlines()
    assert lines[0] == f":rotating_light: *HookedFlow/dagster-{failed} failed in step end*"
    assert "Triggered by: sensor orders (a&lt;b, c)" in lines
    assert lines[-1] == f"<http://localhost:3000/runs/{failed}|Dagster>"


def test_email_is_sent_by_the_server_of_the_environment(flows, instance, failed, mail_server, monkeypatch):
    monkeypatch.setenv("SMTP_HOST", "127.0.0.1")
    monkeypatch.setenv("SMTP_PORT", str(mail_server.port))
    monkeypatch.setenv("SMTP_FROM", "flows@example.com")
    monkeypatch.setenv("SMTP_SECURITY", "none")
    assert "is sent." in tell(flows, instance, failed, email="ann@example.com, ops@example.com")
    (message,) = mail_server.messages
    assert re.search(rf"^Subject:\sHookedFlow/dagster-{failed} failed in step end$", message, re.MULTILINE)
    assert "From: flows@example.com\nTo: ann@example.com, ops@example.com" in message
    assert "Exception: ValueError: the step fails on purpose" in message


def test_no_password_is_sent_without_encryption(flows, instance, failed, mail_server, monkeypatch):
    monkeypatch.setattr(notifications, "PAUSE_SECONDS", 0)
    monkeypatch.setenv("SMTP_HOST", "127.0.0.1")
    monkeypatch.setenv("SMTP_PORT", str(mail_server.port))
    monkeypatch.setenv("SMTP_USER", "flows@example.com")
    monkeypatch.setenv("SMTP_PASSWORD", "secret")
    events = tell(flows, instance, failed, email="ann@example.com")
    assert "2 tries have failed, the last one so: SMTPNotSupportedError" in events
    assert mail_server.messages == []


def test_receiver_that_fails_once_gets_the_message_by_the_second_try(flows, instance, failed, receiver, monkeypatch):
    monkeypatch.setattr(notifications, "PAUSE_SECONDS", 0)
    receiver.answers = [503]
    assert "is sent." in tell(flows, instance, failed, webhook_url=receiver.url)
    assert len(receiver.messages) == 2


@pytest.mark.parametrize("answers", [[500, 500], None])
def test_receiver_that_is_down_costs_two_tries_and_its_address_is_not_told(
    flows, instance, failed, receiver, monkeypatch, answers
):
    monkeypatch.setattr(notifications, "PAUSE_SECONDS", 0)
    receiver.answers = list(answers or ())
    url = receiver.url if answers else "http://127.0.0.1:9/secret-path"
    events = tell(flows, instance, failed, webhook_url=url)
    reason = "it has answered 500 Internal Server Error" if answers else "ConnectionError"
    assert f"2 tries have failed, the last one so: {reason}" in events
    assert "secret" not in events


def test_variable_that_is_not_set_is_named(flows, instance, failed):
    events = tell(flows, instance, failed, slack_webhook_url="env:UNSET", email="ann@example.com")
    assert "UNSET is to hold the receiver's address, but is not set." in events
    assert "SMTP_HOST is to name the mail server, but is not set." in events


def test_sensor_sends_one_message_for_each_failed_run(flows, instance, receiver, monkeypatch):
    monkeypatch.setenv("WEBHOOK", receiver.url)
    ticks = Ticks.of(instance, flows.folder / "defs.py", "HookedFlow_notifications")
    ticks.tick()
    failed, _ = run_job(flows, instance, ending="failure"), run_job(flows, instance)
    assert f"Run {failed}: The message to the webhook is sent." in ticks.until("message")
    assert ticks.tick() == "No run of HookedFlow has ended."
    assert [message["dagster_run_id"] for message in receiver.messages] == [failed]


def test_watching_process_of_a_run_of_the_shell_sends_the_message(flows, instance, receiver, monkeypatch):
    monkeypatch.setenv("WEBHOOK", receiver.url)
    config = {"ops": {"start": {"config": {"ending": "failure"}}}}
    service = LocalInstance(instance.root_directory)
    run = service.launch(read_deployment(flows.folder / "defs.py"), config, {}, lambda _: None)
    until(lambda: "The message to the webhook is sent." in engine_events(instance, run.dagster_run_id))
    assert [message["dagster_run_id"] for message in receiver.messages] == [run.dagster_run_id]


def test_create_tells_who_is_told_and_keeps_secrets_out_of_the_file(project):
    flows: Project = project("one_step.py")
    options = ["--notify-on-error", "--notify-on-success", "--notify-email", "ann@example.com"]
    said = flows.metaflow(
        "one_step.py", "dagster", "create", "defs.py", *options, "--notify-slack-webhook-url", URL_OF_A_SECRET
    ).stdout
    assert "tells Slack and ann@example.com if a run fails or is canceled or succeeds." in said
    assert "The address of --notify-slack-webhook-url is a secret, so it is not written" in said
    text = (flows.folder / "defs.py").read_text()
    assert "secret-of-slack" not in text + said
    assert 'slack_webhook_url="env:SLACK_WEBHOOK_URL"' in text
    options = ["--notify-on-error", "--notify-webhook-url", "http://receiver.example.com/runs"]
    said = flows.metaflow("one_step.py", "dagster", "create", "defs.py", *options).stdout
    assert "The address of --notify-webhook-url is written into the definitions file." in said
    assert 'webhook_url="http://receiver.example.com/runs"' in (flows.folder / "defs.py").read_text()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--notify-on-error"], "--notify-on-error needs a receiver"),
        (["--notify-email", "ann@example.com"], "--notify-email has no effect alone"),
        (["--notify-on-error", "--notify-email", "ann"], "'ann' is no e-mail address"),
        (["--notify-on-error", "--notify-webhook-url", "example.com"], "has to be an address that begins with http"),
        (["--notify-on-error", "--notify-webhook-url", "env:A-B"], "has to be the name of a variable"),
    ],
)
def test_receiver_that_could_get_nothing_is_refused(project, options, problem):
    assert problem in project("one_step.py").refuses("one_step.py", "create", "defs.py", *options)


def test_compiler_and_deployer_have_the_options_too(project):
    flows: Project = project("one_step.py")
    options = {"notify_on_error": True, "notify_webhook_url": "env:RUNS"}
    call = 'notification_sensor(FLOW, JOB, on_error=True, webhook_url="env:RUNS")'
    assert call in DagsterCompiler(flows.folder / "one_step.py", **options).compile(flows.folder / "defs.py")
    deployer: Any = Deployer(str(flows.folder / "one_step.py"), cwd=str(flows.folder))
    deployed = deployer.dagster().create(definitions_file=str(flows.folder / "deployed.py"), **options)
    assert call in Path(deployed.definitions_file).read_text()
