"""`create --notify-on-error --notify-on-success`: the sensor that sends a message for each run."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from metaflow_pipes.compile.credentials import is_secret_url
from metaflow_pipes.compile.job_model import AutomationModel
from metaflow_pipes.errors import CompileError

if TYPE_CHECKING:
    from metaflow_pipes.compile.job_options import JobOptions

# What stands before the name of a variable that holds an address.
ENVIRONMENT_PREFIX = "env:"
# The variable that is to hold an address which is a secret, where the user has named none.
_DEFAULT_VARIABLES = {"notify_slack_webhook_url": "SLACK_WEBHOOK_URL", "notify_webhook_url": "NOTIFY_WEBHOOK_URL"}

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_URL = re.compile(r"https?://[^\s/]+\S*")
_EMAIL = re.compile(r"[^@\s,]+@[^@\s,]+")


def webhooks(options: JobOptions) -> dict[str, str]:
    """The addresses that take messages by HTTP, by their options."""
    urls = {name: getattr(options, name) for name in _DEFAULT_VARIABLES}
    return {name: url for name, url in urls.items() if url is not None}


def without_secrets(options: JobOptions) -> JobOptions:
    """The options, with the name of a variable for each address that is a secret: nothing else gets into the file."""
    secret = [name for name, url in webhooks(options).items() if is_secret_url(url)]
    return replace(options, **{name: f"{ENVIRONMENT_PREFIX}{_DEFAULT_VARIABLES[name]}" for name in secret})


def check_notifications(options: JobOptions) -> None:
    """Check that messages have a receiver, and receivers get messages.

    Raises:
        CompileError: They don't, or an address is none; names the option.
    """
    is_wanted = options.notify_on_error or options.notify_on_success
    receivers = webhooks(options) if options.notify_email is None else {**webhooks(options), "notify_email": ""}
    if is_wanted and not receivers:
        wanted = "--notify-on-error" if options.notify_on_error else "--notify-on-success"
        raise CompileError(
            f"{wanted} needs a receiver: --notify-slack-webhook-url, --notify-webhook-url or --notify-email."
        )
    if receivers and not is_wanted:
        raise CompileError(
            f"--{next(iter(receivers)).replace('_', '-')} has no effect alone. Say when to send a message: "
            "--notify-on-error, --notify-on-success, or both."
        )
    for name, url in webhooks(options).items():
        option = f"--{name.replace('_', '-')}"
        prefix, variable = url[: len(ENVIRONMENT_PREFIX)], url[len(ENVIRONMENT_PREFIX) :]
        if prefix == ENVIRONMENT_PREFIX and _VARIABLE.fullmatch(variable) is None:
            raise CompileError(f"{option} is {url!r}, but what follows env: has to be the name of a variable.")
        if prefix != ENVIRONMENT_PREFIX and _URL.fullmatch(url) is None:
            # an address may be a secret, and what was given may be one with a slip
            raise CompileError(
                f"{option} has to be an address that begins with http:// or https://, or env: and the name of the "
                "variable that holds it."
            )
    if options.notify_email is not None:
        _check_email(options.notify_email)


def notification_sensors(job: str, options: JobOptions) -> tuple[AutomationModel, ...]:
    """The sensor that sends messages; none if no messages are wanted.

    Args:
        job: The job's name.
        options: The options of the job, without secrets.
    """
    if not (options.notify_on_error or options.notify_on_success):
        return ()
    arguments: dict[str, Any] = {
        name.removeprefix("notify_"): value
        for name in (
            "notify_on_error",
            "notify_on_success",
            "notify_slack_webhook_url",
            "notify_webhook_url",
            "notify_email",
        )
        if (value := getattr(options, name))
    }
    if options.paused:
        arguments["paused"] = True
    receivers = {"slack_webhook_url": "Slack", "webhook_url": "a webhook", "email": options.notify_email}
    told = " and ".join(str(receiver) for name, receiver in receivers.items() if name in arguments)
    ends = {"on_error": "fails or is canceled", "on_success": "succeeds"}
    runs = " or ".join(end for name, end in ends.items() if name in arguments)
    return (AutomationModel(f"{job}_notifications", "notification_sensor", arguments, f"tells {told} if a run {runs}"),)


def _check_email(addresses: str) -> None:
    for address in addresses.split(","):
        if _EMAIL.fullmatch(address.strip()) is None:
            raise CompileError(f"--notify-email is {addresses!r}, but {address.strip()!r} is no e-mail address.")
