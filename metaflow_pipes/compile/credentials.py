"""Recognizes names and values that look like credentials, so that the compiler can warn before it writes them."""

from __future__ import annotations

import re

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


def looks_like_credential(name: str, value: object) -> bool:
    """Whether a variable looks as if it held a key, token or password.

    Args:
        name: The variable's name.
        value: Its value; only strings are looked at.
    """
    by_name = names_a_secret(name) and value not in (None, "")
    return by_name or (isinstance(value, str) and _VALUE.search(value) is not None)
