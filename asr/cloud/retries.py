"""Requests that are repeated: which errors pass, how long to wait, and what a message says of the last one.

Waits grow exponentially and are drawn at random up to that length ("full jitter"), so that many clients do not return
together (M. Brooker, "Exponential Backoff and Jitter", 2015). A ``Retry-After`` of the server is waited for.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from asr.cloud.addresses import clean_text, scheme_of, without_secrets
from asr.errors import CloudError

TRIES = 6
"""Times that a request is made."""
GOOGLE_TRIES = 2
"""The same for Google's service: gcsfs makes each request up to six times itself, and that cannot be switched off."""
FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 15.0
LONGEST_ASKED_S = 60.0
"""Longest ``Retry-After`` that is waited for."""
TRANSIENT = frozenset((408, 425, 429, 500, 502, 503, 504, 509, 520, 521, 522, 523, 524))
"""HTTP statuses that may be gone at the next try."""


class ChangedError(OSError):
    """The object is no longer the one that reading began with."""


class UnreachableError(CloudError):
    """Every try failed with an error that may pass: the service may be down."""


def service_is_down(error: BaseException | None) -> bool:
    """Whether an error came of an ``UnreachableError``."""
    while error is not None and not isinstance(error, UnreachableError):
        error = error.__cause__
    return error is not None


class ShortError(OSError):
    """The answer has fewer bytes than it should."""


_LASTING = (
    ChangedError,
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    FileExistsError,
    MemoryError,
)
_LASTING_NAMES = (
    "NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "ProfileNotFound", "ParamValidationError",
    "NoRegionError", "InvalidURL", "InvalidUrlClientError", "NonHttpUrlClientError", "TooManyRedirects",
    "AuthenticationException", "BadHostKeyException", "BadAuthenticationType", "PasswordRequiredException",
    "DefaultCredentialsError", "RefreshError", "UnknownHostKey", "ClientConnectorCertificateError",
    "UnauthorizedSSOTokenError", "SSOTokenLoadError", "InvalidConfigError",
)  # fmt: skip
"""Classes of other packages, which may not be installed. None of these errors is gone at the next try."""
_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; FSSPEC_S3_ANON=true for a public bucket",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or run gcloud auth application-default login",
    "sftp": "put a key into ~/.ssh or the SSH agent, or name it in ~/.ssh/config",
    "http": "put user and password into ~/.netrc or the URL",
}
_T = TypeVar("_T")


def repeat(
    request: Callable[[], _T],
    url: str,
    *,
    attempts: int | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> _T:
    """What ``request`` gives; it is called again after an error that may pass.

    Raises ``CloudError``, which names ``url`` without its secrets, for any other error, and after ``attempts``.
    """
    if attempts is None:
        attempts = GOOGLE_TRIES if scheme_of(url) in ("gs", "gcs") else TRIES
    for attempt in range(1, attempts + 1):
        try:
            return request()
        except CloudError:
            raise
        except Exception as error:
            if not is_transient(error):
                raise as_cloud_error(error, url) from None
            if attempt == attempts:
                raise UnreachableError(str(as_cloud_error(error, url, f" ({attempts} tries)"))) from None
            sleep(_wait_s(attempt, error))
    raise AssertionError("the last attempt returns or raises")


def _wait_s(attempt: int, error: BaseException) -> float:
    asked = _retry_after_s(error)
    if asked is not None:
        return min(asked, LONGEST_ASKED_S) + random.uniform(0, FIRST_WAIT_S)
    return random.uniform(0, min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt))


def _retry_after_s(error: BaseException) -> float | None:
    headers: Any = getattr(error, "headers", None)
    if headers is None and (response := _response(error)) is not None:
        headers = response.get("ResponseMetadata", {}).get("HTTPHeaders")
    try:
        value = float({str(name).lower(): text for name, text in dict(headers or {}).items()}["retry-after"])
    except (KeyError, TypeError, ValueError):
        return None
    return value if value >= 0 else None


def _response(error: BaseException) -> dict[str, Any] | None:
    """The answer of an S3 service, which botocore's errors keep."""
    for each in (error, error.__cause__):
        if isinstance(found := getattr(each, "response", None), dict):
            return found
    return None


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error of any of the libraries stands for; None where there is none."""
    if (response := _response(error)) is not None:
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return int(status) if isinstance(status, int) else None
    for name in ("status", "code"):
        value = getattr(error, name, None)
        if isinstance(value, str) and value.isdigit():
            value = int(value)
        if isinstance(value, int) and 100 <= value < 600:
            return value
    return 403 if type(error) is OSError and str(error).startswith("Forbidden") else None  # gcsfs


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(error, _LASTING) or _names(error) & set(_LASTING_NAMES):
        return False
    if "known_hosts" in str(error):  # paramiko has no class of its own for a server that is not known
        return False
    if (status := status_of(error)) is not None:
        return status in TRANSIENT
    if isinstance(error, OSError | EOFError | TimeoutError | asyncio.TimeoutError | ConnectionError):
        return True
    # aiohttp, botocore, paramiko and requests have trees of errors of their own.
    return any(name.split(".")[0] in ("aiohttp", "botocore", "aiobotocore", "paramiko", "requests", "google")
               for name in (kind.__module__ for kind in type(error).__mro__))  # fmt: skip


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def as_cloud_error(error: BaseException, url: str, tries: str = "") -> CloudError:
    """The error as users see it: the URL without secrets, what happened, what to do."""
    return CloudError(f"{without_secrets(url)}: {reason(error, url)}{tries}")


def reason(error: BaseException, url: str) -> str:
    """Why a request failed, without secrets."""
    scheme = {"https": "http", "s3a": "s3", "gcs": "gs"}.get(scheme_of(url), scheme_of(url))
    advice = f"; {_CREDENTIALS[scheme]}" if scheme in _CREDENTIALS else ""
    text = " ".join(clean_text(str(error)).split())
    status = status_of(error)
    if isinstance(error, ChangedError):
        return "the object changed while it was read; read it again when its writer is done"
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        if "bucket does not exist" in text:
            return "no such bucket; correct its name"
        pattern = "; patterns are not expanded at URLs: give the folder, or a range such as {000..099}"
        return f"no such object{pattern if '*' in url else ''}"
    names = _names(error)
    if {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError"} & names:
        return f"no credentials found ({text}){advice}"
    if {"AuthenticationException", "PasswordRequiredException", "BadAuthenticationType"} & names:
        return f"the server refused the login ({text}){advice}"
    if isinstance(error, PermissionError) or status in (401, 403):
        said = f" ({text})" if text else ""
        return f"access denied{said}; check the permission to read this object{advice}"
    kind = type(error).__name__
    return f"cannot be read: {text}" if text and kind == "OSError" else f"cannot be read: {kind}: {text}".rstrip(": ")
