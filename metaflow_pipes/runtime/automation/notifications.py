"""Messages about runs that have ended: to Slack, to a webhook as JSON, or by e-mail."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from metaflow_pipes.names import (
    DAGSTER_DEV_URL,
    PARENT_RUN_ID_TAG,
    TRIGGERS_TAG,
    URL_VARIABLE,
    USER_TAG,
)
from metaflow_pipes.run_ids import metaflow_run_id_of
from metaflow_pipes.runtime.automation.ended_runs import EndedRunSensor
from metaflow_pipes.runtime.automation.follow_ups import FollowUp, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from dagster import DagsterInstance, DagsterRun
    from dagster._utils.error import SerializableErrorInfo

    from metaflow_pipes.runtime.flow import MetaflowFlow

# How long a receiver may take to answer, how often it is tried, and the pause between two tries.
ANSWER_SECONDS = 5
TRIES = 2
PAUSE_SECONDS = 2
# How many failures of a run are looked at: in a run of assets, not all are the flow's.
_FAILURES = 100
# How much of an exception's message a message shows.
SHOWN_CHARACTERS = 2000
# What stands before the name of a variable that holds an address.
ENVIRONMENT_PREFIX = "env:"
# The ports of the kinds of SMTP.
_SMTP_PORTS = {"starttls": 587, "ssl": 465, "none": 25}
_UI_URL = "METAFLOW_UI_URL"
_ENDS = {
    dg.DagsterRunStatus.SUCCESS: "succeeded",
    dg.DagsterRunStatus.FAILURE: "failed",
    dg.DagsterRunStatus.CANCELED: "was canceled",
}


def notification_sensor(
    flow: MetaflowFlow,
    job: dg.JobDefinition,
    *,
    on_error: bool = False,
    on_success: bool = False,
    slack_webhook_url: str | None = None,
    webhook_url: str | None = None,
    email: str | None = None,
    paused: bool = False,
) -> dg.SensorDefinition:
    """The sensor `<job>_notifications`, which sends a message for each run that has ended.

    Args:
        flow: The flow.
        job: Its job.
        on_error: Whether one is sent for a run that failed or was canceled.
        on_success: Whether one is sent for a run that succeeded.
        slack_webhook_url: The address of an incoming webhook of Slack, or `env:` and the name of the variable that
            holds it where the message is sent.
        webhook_url: The same of a receiver that takes JSON.
        email: The addresses that get it as e-mail, separated by commas.
        paused: Whether the sensor is deployed stopped.
    """
    notifications = Notifications(
        name=f"{job.name}_notifications",
        job=job.name,
        last_op=flow.steps[-1].op_name,
        flow=flow.name,
        user=flow.user,
        metaflow_ui_url=flow.settings.get(_UI_URL),
        on_error=on_error,
        on_success=on_success,
        slack_webhook_url=slack_webhook_url,
        webhook_url=webhook_url,
        email=email,
    )
    description = f"Sends a message for runs of {flow.name} that have ended."
    return EndedRunSensor(flow, job, notifications, description=description, paused=paused)


@dataclass(frozen=True)
class RunSummary:
    """A run that has ended, as a receiver of JSON gets it.

    Attributes:
        flow: The flow's name.
        run_id: The Metaflow run.
        dagster_run_id: The Dagster run.
        job: The Dagster job.
        status: `succeeded`, `failed` or `was canceled`.
        user: The Metaflow user of the run.
        triggered_by: What started it: a schedule, a sensor and its events, a run that it re-executes, or its user.
        failed_step: The first step that failed, or None.
        exception_type: The type of the exception for which it failed, or None.
        exception: The exception's message; of a run that failed without a step, the reason that Dagster gives.
        duration_seconds: How long it ran; None if it did not start.
        dagster_url: Its page in the Dagster UI.
        metaflow_url: Its page in the Metaflow UI, or None if there is no such UI.
    """

    flow: str
    run_id: str
    dagster_run_id: str
    job: str
    status: str
    user: str
    triggered_by: str
    failed_step: str | None
    exception_type: str | None
    exception: str | None
    duration_seconds: float | None
    dagster_url: str
    metaflow_url: str | None

    @property
    def title(self) -> str:
        """The message in one line."""
        step = f" in step {self.failed_step}" if self.failed_step else ""
        return f"{self.flow}/{self.run_id} {self.status}{step}"

    @property
    def lines(self) -> list[str]:
        """All that the message says below its title, but for the links."""
        lasted = None if self.duration_seconds is None else f"{self.duration_seconds:.0f} s"
        exception = ": ".join(part for part in (self.exception_type, self.exception) if part)
        facts = {
            "Exception": exception,
            "Started by": self.user,
            "Triggered by": self.triggered_by,
            "Duration": lasted,
            "Dagster job": self.job,
        }
        return [f"{name}: {value}" for name, value in facts.items() if value]

    @property
    def links(self) -> dict[str, str]:
        """The pages of the run, by the names of the UIs."""
        return {name: url for name, url in (("Dagster", self.dagster_url), ("Metaflow", self.metaflow_url)) if url}

    @property
    def text(self) -> str:
        """The message as plain text."""
        links = [f"{name}: {url}" for name, url in self.links.items()]
        return "\n".join([self.title, "", *self.lines, "", *links])


@dataclass(frozen=True)
class Notifications(FollowUp):
    """The messages about the runs of a flow.

    Attributes:
        flow: The flow's name.
        user: The Metaflow user where a run does not say whose it is.
        metaflow_ui_url: The address of the Metaflow UI that the flow was compiled with, or None.
        on_error: As for `notification_sensor`.
        on_success: As for `notification_sensor`.
        slack_webhook_url: As for `notification_sensor`.
        webhook_url: As for `notification_sensor`.
        email: As for `notification_sensor`.
    """

    flow: str
    user: str
    metaflow_ui_url: str | None
    on_error: bool
    on_success: bool
    slack_webhook_url: str | None
    webhook_url: str | None
    email: str | None

    def is_due(self, status: dg.DagsterRunStatus) -> bool:
        """As `FollowUp.is_due`."""
        return self.on_success if status == dg.DagsterRunStatus.SUCCESS else self.on_error

    def limit_seconds(self, status: dg.DagsterRunStatus) -> float:
        """As `FollowUp.limit_seconds`."""
        del status
        return 3 * TRIES * (10 * ANSWER_SECONDS + PAUSE_SECONDS)

    def act(self, instance: DagsterInstance, run: DagsterRun) -> Iterator[Outcome]:
        """Send the message to each receiver."""
        summary = self._summary(instance, run)
        if self.slack_webhook_url is not None:
            url = self.slack_webhook_url
            yield _sent("Slack", lambda: _post(url, {"text": _slack_text(summary)}))
        if self.webhook_url is not None:
            url = self.webhook_url
            yield _sent("the webhook", lambda: _post(url, {**asdict(summary), "text": summary.text}))
        if self.email is not None:
            addresses = self.email
            yield _sent(addresses, lambda: _mail(addresses, summary))

    def _summary(self, instance: DagsterInstance, run: DagsterRun) -> RunSummary:
        run_id = metaflow_run_id_of(run.run_id, run.tags, is_selection=bool(run.step_keys_to_execute))
        user = run.tags.get(USER_TAG, self.user)
        step, error_type, error = _failure(instance, run, lambda key: self.is_of_flow(run, key))
        dagster_url = os.environ.get(URL_VARIABLE) or DAGSTER_DEV_URL
        metaflow_url = self.metaflow_ui_url or os.environ.get(_UI_URL)
        return RunSummary(
            flow=self.flow,
            run_id=run_id,
            dagster_run_id=run.run_id,
            job=self.job,
            status=_ENDS[run.status],
            user=user,
            triggered_by=_trigger(run.tags) or f"{user}, by hand",
            failed_step=step,
            exception_type=error_type,
            exception=error,
            duration_seconds=_duration_seconds(instance, run),
            dagster_url=f"{dagster_url.rstrip('/')}/runs/{run.run_id}",
            metaflow_url=f"{metaflow_url.rstrip('/')}/{self.flow}/{run_id}" if metaflow_url else None,
        )


class _UnsendableError(Exception):
    """A message can't be sent, and won't be if it is tried again."""


def _duration_seconds(instance: DagsterInstance, run: DagsterRun) -> float | None:
    record = instance.get_run_record_by_id(run.run_id)
    if record is None or record.start_time is None or record.end_time is None:
        return None
    return record.end_time - record.start_time


def _trigger(tags: Mapping[str, str]) -> str | None:
    """The cause of a run: a schedule, events, a re-execution; None if its user started it."""
    for kind in ("schedule", "sensor"):
        name = tags.get(f"dagster/{kind}_name")
        if name is not None:
            events = _event_names(tags.get(TRIGGERS_TAG, ""))
            return f"{kind} {name}" + (f" ({', '.join(events)})" if events else "")
    events = _event_names(tags.get(TRIGGERS_TAG, ""))
    if events:
        return ", ".join(events)
    parent = tags.get(PARENT_RUN_ID_TAG)
    return None if parent is None else f"re-execution of Dagster run {parent}"


def _event_names(triggers: str) -> list[str]:
    try:
        return [str(trigger["name"]) for trigger in json.loads(triggers or "[]")]
    except (KeyError, TypeError, ValueError):
        return []  # a tag that somebody has written by hand


def _failure(
    instance: DagsterInstance, run: DagsterRun, is_own: Callable[[str], bool]
) -> tuple[str | None, str | None, str | None]:
    """The flow's first step that failed, and its exception's type and message; each None if there is none."""
    if run.status == dg.DagsterRunStatus.SUCCESS:
        return None, None, None
    for kind in (dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE):
        records = instance.get_records_for_run(run.run_id, of_type=kind, limit=_FAILURES).records
        events = (record.event_log_entry.dagster_event for record in records)
        event = next((event for event in events if event and (not event.step_key or is_own(event.step_key))), None)
        if event is not None:
            error: SerializableErrorInfo | None = getattr(event.event_specific_data, "error", None)
            error_type, message = (None, event.message or "") if error is None else _root_cause(error)
            return event.step_key, error_type, message.strip()[:SHOWN_CHARACTERS]
    return None, None, None


def _root_cause(error: SerializableErrorInfo) -> tuple[str | None, str]:
    while error.cause is not None:
        error = error.cause
    name = error.cls_name
    # Dagster's messages begin with the type and its module: `dagster...DagsterError: ...`, `ValueError: ...`
    before, colon, after = error.message.partition(": ")
    return name, after if colon and name is not None and before.rpartition(".")[2] == name else error.message


def _sent(receiver: str, send: Callable[[], None]) -> Outcome:
    """Send a message, twice if need be, and tell what came of it."""
    reason = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE_SECONDS)
        try:
            send()
        except _UnsendableError as error:
            return Outcome(f"The message to {receiver} could not be sent.", str(error))
        except OSError as error:  # that of smtplib and of requests are such
            reason = _reason(error)
        else:
            return Outcome(f"The message to {receiver} is sent.")
    return Outcome(
        f"The message to {receiver} could not be sent.", f"{TRIES} tries have failed, the last one so: {reason}"
    )


def _reason(error: OSError) -> str:
    """The reason why a receiver was not reached, without its address: that may be secret, and is in most messages."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"it has answered {response.status_code} {response.reason}"
    smtp_code = getattr(error, "smtp_code", None)
    return type(error).__name__ if smtp_code is None else f"it has answered {smtp_code}"


def _post(address: str, message: Mapping[str, Any]) -> None:
    import requests

    url = _address(address)
    try:
        response = requests.post(url, json=message, timeout=ANSWER_SECONDS)
        response.raise_for_status()
    except (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema):
        raise _UnsendableError(f"The value of {address.removeprefix(ENVIRONMENT_PREFIX)} is no address.") from None


def _address(address: str) -> str:
    """An address, or the one that a variable holds."""
    if not address.startswith(ENVIRONMENT_PREFIX):
        return address
    variable = address.removeprefix(ENVIRONMENT_PREFIX)
    found = os.environ.get(variable, "").strip()
    if not found:
        raise _UnsendableError(
            f"{variable} is to hold the receiver's address, but is not set. Set it in the environment of the Dagster "
            "code location, and of `dagster trigger`."
        )
    return found


def _slack_text(summary: RunSummary) -> str:
    """The message in Slack's markup."""
    mark = ":white_check_mark:" if summary.status == "succeeded" else ":rotating_light:"
    links = [f"<{url}|{name}>" for name, url in summary.links.items()]
    title, *lines = map(_escaped, [summary.title, *summary.lines])
    return "\n".join([f"{mark} *{title}*", *lines, " · ".join(links)])


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _mail(addresses: str, summary: RunSummary) -> None:
    """Send the message by the SMTP server that the environment names."""
    import smtplib
    import ssl
    from email.message import EmailMessage

    host, user = os.environ.get("SMTP_HOST"), os.environ.get("SMTP_USER")
    if not host:
        raise _UnsendableError(
            "SMTP_HOST is to name the mail server, but is not set. Set it in the environment of the Dagster code "
            "location, and of `dagster trigger`."
        )
    security = os.environ.get("SMTP_SECURITY", "starttls").lower()
    if security not in _SMTP_PORTS:
        raise _UnsendableError(f"SMTP_SECURITY is {security!r}. It has to be one of {', '.join(_SMTP_PORTS)}.")
    port = os.environ.get("SMTP_PORT") or str(_SMTP_PORTS[security])
    if not port.isdecimal():
        raise _UnsendableError(f"SMTP_PORT is {port!r}, but a port is a number.")
    message = EmailMessage()
    message["Subject"] = summary.title
    message["From"] = os.environ.get("SMTP_FROM") or (user if user and "@" in user else f"dagster@{host}")
    message["To"] = addresses
    message.set_content(summary.text)
    # smtplib's own contexts take any certificate
    tls = ssl.create_default_context()
    with (
        smtplib.SMTP_SSL(host, int(port), timeout=ANSWER_SECONDS, context=tls)
        if security == "ssl"
        else smtplib.SMTP(host, int(port), timeout=ANSWER_SECONDS)
    ) as server:
        if security == "starttls":
            server.starttls(context=tls)
        if user:
            server.login(user, os.environ.get("SMTP_PASSWORD", ""))
        server.send_message(message)
