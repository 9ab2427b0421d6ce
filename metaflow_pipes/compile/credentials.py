"""Recognizes names and values that look like credentials, so that the compiler can warn before it writes them."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

from step_wrapper.wire import names_a_secret

_VALUE = re.compile(
    r"AKIA[0-9A-Z]{16}|ASIA[0-9A-Z]{16}"  # AWS access keys
    r"|gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_\-]{20}"
    r"|xox[abprs]-[A-Za-z0-9\-]{10,}|\bsk-[A-Za-z0-9_\-]{20,}|\bhf_[A-Za-z0-9]{30,}|AIza[0-9A-Za-z_\-]{35}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|\beyJ[A-Za-z0-9_\-]{10,}\.eyJ[A-Za-z0-9_\-]{10,}\."  # JSON web tokens
    r"|\b[Bb]earer\s+[A-Za-z0-9_\-.=]{16,}"
    r"|\b[a-z][a-z0-9+.\-]{0,20}://[^/\s:@]*:[^/\s@]+@"  # user and password in a URL
)

# Chat services, whose webhooks ask for nothing but their address.
_WEBHOOK_HOSTS = ("discord.com", "discordapp.com", "chat.googleapis.com")
_WEBHOOK_DOMAINS = (".slack.com", ".webhook.office.com", ".logic.azure.com")
# Parameters of a URL that sign it, or hold its key.
_SIGNATURES = ("sig", "signature", "key", "auth", "code")


def looks_like_credential(name: str, value: object) -> bool:
    """Whether a variable looks as if it held a key, token or password.

    Args:
        name: The variable's name.
        value: Its value; only strings are looked at.
    """
    by_name = names_a_secret(name) and value not in (None, "")
    return by_name or (isinstance(value, str) and _VALUE.search(value) is not None)


def is_secret_url(url: str) -> bool:
    """Whether whoever knows a URL may use what is there: a webhook of a chat service, or one with a password or key."""
    if _VALUE.search(url) is not None:
        return True
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return True  # nothing is known of it
    return (
        host in _WEBHOOK_HOSTS
        or host.endswith(_WEBHOOK_DOMAINS)
        or any(names_a_secret(name) or name.lower() in _SIGNATURES for name, _ in parse_qsl(parts.query))
    )
