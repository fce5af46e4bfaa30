"""What is asked again, how often, and what is said when it fails."""

from __future__ import annotations

import pytest

from asr.cloud import retries
from asr.cloud.retries import TRIES, ChangedError, is_transient, reason, repeat
from asr.errors import CloudError


class StatusError(Exception):
    def __init__(self, status, headers=None):
        super().__init__(f"status {status}")
        self.status, self.headers = status, headers or {}


def failing(errors, value="good"):
    """A request that raises each of ``errors`` and then gives ``value``; and how often it was made."""
    left, calls = list(errors), []

    def request():
        calls.append(1)
        if left:
            raise left.pop(0)
        return value

    return request, calls


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_statuses_that_may_pass_are_asked_again(status):
    request, calls = failing([StatusError(status)] * (TRIES - 1))
    assert repeat(request, "s3://b/k", sleep=lambda s: None) == "good"
    assert len(calls) == TRIES


@pytest.mark.parametrize(
    "error", [StatusError(403), StatusError(404), StatusError(400), StatusError(412), FileNotFoundError("k"),
              PermissionError("k"), ChangedError("k"), ValueError("k")],
)  # fmt: skip
def test_what_does_not_pass_is_asked_once(error):
    request, calls = failing([error])
    with pytest.raises(CloudError, match="s3://b/k: "):
        repeat(request, "s3://b/k", sleep=lambda s: None)
    assert len(calls) == 1


def test_tries_are_bounded_and_counted_in_the_message():
    request, calls = failing([ConnectionResetError("reset by peer")] * 99)
    with pytest.raises(CloudError, match=rf"reset by peer \({TRIES} tries\)"):
        repeat(request, "https://h/a", sleep=lambda s: None)
    assert len(calls) == TRIES


def test_googles_client_repeats_itself_and_is_asked_twice():
    request, calls = failing([ConnectionResetError("reset by peer")] * 99)
    with pytest.raises(CloudError, match=r"\(2 tries\)"):
        repeat(request, "gs://b/k", sleep=lambda s: None)
    assert len(calls) == 2


def test_waits_grow_are_random_and_bounded():
    waits = []
    for _ in range(200):
        request, _ = failing([TimeoutError()] * 5)
        repeat(request, "s3://b/k", sleep=waits.append)
    rounds = [waits[at::5] for at in range(5)]
    limits = [min(retries.LONGEST_WAIT_S, retries.FIRST_WAIT_S * 2**attempt) for attempt in range(1, 6)]
    for found, limit in zip(rounds, limits, strict=True):
        assert 0.9 * limit < max(found) <= limit
        assert min(found) < 0.1 * limit
        assert len(set(found)) == len(found)


def test_a_retry_after_is_waited_for():
    waits = []
    request, _ = failing([StatusError(503, {"Retry-After": "7"})])
    repeat(request, "https://h/a", sleep=waits.append)
    assert 7 <= waits[0] <= 8
    request, _ = failing([StatusError(503, {"retry-after": "86400"})])
    repeat(request, "https://h/a", sleep=waits.append)
    assert waits[1] <= retries.LONGEST_ASKED_S + 1


def test_broken_connections_of_all_kinds_may_pass():
    import aiohttp
    import paramiko

    botocore = pytest.importorskip("botocore.exceptions")
    for error in (
        aiohttp.ClientPayloadError("cut"),
        aiohttp.ServerDisconnectedError(),
        botocore.EndpointConnectionError(endpoint_url="http://h"),
        botocore.ReadTimeoutError(endpoint_url="http://h"),
        paramiko.SSHException("closed"),
        EOFError(),
    ):
        assert is_transient(error), error
    for error in (
        botocore.NoCredentialsError(),
        paramiko.AuthenticationException("no"),
        aiohttp.InvalidURL("x"),
        KeyError("x"),
    ):
        assert not is_transient(error), error


def test_a_missing_login_says_what_to_set():
    botocore = pytest.importorskip("botocore.exceptions")
    assert "set AWS_ACCESS_KEY_ID" in reason(botocore.NoCredentialsError(), "s3://b/k")
    assert "no credentials found" in reason(botocore.NoCredentialsError(), "s3://b/k")
    assert "access denied" in reason(StatusError(403), "https://h/a")
    assert "netrc" in reason(StatusError(401), "https://h/a")


def test_messages_hold_no_secret_of_the_url():
    request, _ = failing([ValueError("bad url https://u:pw@h/a?sig=qwerty")])
    with pytest.raises(CloudError) as caught:
        repeat(request, "https://u:pw@h/a?sig=qwerty", sleep=lambda s: None)
    assert "pw" not in str(caught.value)
    assert "qwerty" not in str(caught.value)
