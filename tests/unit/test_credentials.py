"""What looks like a credential, and what does not."""

from __future__ import annotations

import pytest

from metaflow_pipes.compile.credentials import looks_like_credential


@pytest.mark.parametrize(
    "name",
    [
        *("API_KEY", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "HF_TOKEN", "GITHUB_TOKEN", "token"),
        *("CLIENT_SECRET", "private-key", "service.auth", "MY_PWD", "SLACK_CREDENTIALS", "apikey"),
    ],
)
def test_names_of_credentials(name):
    assert looks_like_credential(name, "x")
    assert not looks_like_credential(name, "")


@pytest.mark.parametrize(
    "name",
    [
        "TOKENIZERS_PARALLELISM",
        "MAX_TOKENS",
        "PWD",
        "OMP_NUM_THREADS",
        "AUTHOR",
        "KEYBOARD",
        "SORT_KEY",
        "PASSENGERS",
    ],
)
def test_names_of_other_things(name):
    assert not looks_like_credential(name, "x")


@pytest.mark.parametrize(
    "value",
    [
        "AKIA" + "A" * 16,
        "ghp_" + "a" * 36,
        "postgresql://user:pw@host/db",
        "-----BEGIN RSA PRIVATE KEY-----\nabc",
        "Bearer abcdefghijklmnop",
        "xoxb-1234567890-abc",
    ],
)
def test_values_of_credentials(value):
    assert looks_like_credential("SETTING", value)


@pytest.mark.parametrize("value", ["s3://bucket/path", "https://host:443/a@b", "hello", 3, None, True])
def test_other_values(value):
    assert not looks_like_credential("SETTING", value)


def test_large_values_are_looked_at_in_no_time():
    # a search that goes back and forth in them would take minutes
    assert not looks_like_credential("BIG", "abcdefgh" * 250_000)
    assert looks_like_credential("BIG", "abcdefgh " * 250_000 + "postgresql://user:pw@host/db")
