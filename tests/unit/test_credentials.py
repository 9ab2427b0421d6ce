"""Names and values that look like credentials, and those that do not."""

from __future__ import annotations

import pytest

from metaflow_pipes.compile.credentials import is_secret_url, looks_like_credential
from step_wrapper.wire import names_a_secret

# The same rule for the variables that the compiler writes and for the artifacts that a step reports.
NAMES = {
    "api_token": True,
    "token": True,
    "HF_TOKEN": True,
    "hfToken": True,
    "GitHubToken": True,
    "auth_token_2": True,
    "num_tokens": False,
    "tokens_per_second": False,
    "tokens": False,
    "maxTokens": False,
    "max_token": False,
    "token_count": False,
    "tokenizer": False,
    "TOKENIZERS_PARALLELISM": False,
    "db_pwd": True,
    "dbPwd": True,
    "PWD": False,
    "OLDPWD": False,
    "DB_PASSWORD": True,
    "db-password": True,
    "service.password": True,
    "password2": True,
    "password_length": False,
    "PASSENGERS": False,
    "passphrase": True,
    "client_secret": True,
    "secretary": False,
    "credentials": True,
    "API_KEY": True,
    "apiKey": True,
    "APIKey": True,
    "apikey": True,
    "aws_secret_access_key": True,
    "private-key": True,
    "sort_key": False,
    "keyboard": False,
    "monkey_api": False,
    "basic_auth": True,
    "author": False,
    "": False,
    "_": False,
    "accuracy": False,
}


@pytest.mark.parametrize(("name", "is_secret"), NAMES.items())
def test_whole_words_of_a_name_tell_a_secret(name, is_secret):
    assert names_a_secret(name) is is_secret


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


@pytest.mark.parametrize(
    ("url", "is_secret"),
    [
        ("https://hooks.slack.com/services/T00/B00/abc", True),
        ("https://discord.com/api/webhooks/1/abc", True),
        ("https://example.webhook.office.com/webhookb2/abc", True),
        ("https://user:password@example.com/runs", True),
        ("https://example.com/runs?token=abc", True),
        ("https://example.com/runs?sig=abc", True),
        ("https://[example.com/runs", True),
        ("http://127.0.0.1:8000/runs?team=data", False),
        ("env:SLACK_URL", False),
    ],
)
def test_url_that_is_a_secret_by_itself(url, is_secret):
    assert is_secret_url(url) is is_secret
