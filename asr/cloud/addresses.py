"""URLs of inputs as text: which schemes there are, how paths are joined, and what of a URL may be shown.

A URL may hold a password (``https://user:password@host``) or a signature (``?X-Amz-Signature=…``). ``without_secrets``
removes both. Messages, logs and files that this package writes hold only that form.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

SCHEMES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "https": "aiohttp",
    "http": "aiohttp",
    "sftp": "paramiko",
    "memory": "",
}
"""Schemes of URLs, and the package that each needs beside fsspec."""
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://", re.ASCII)
_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://[^\s'\"<>\\]+", re.ASCII)
_SECRET_NAME = re.compile(
    r"sig|token|key|secret|pass|credential|auth|session|policy|hmac|jwt|^x-amz-|^x-goog-|access-?id", re.IGNORECASE
)
_SIGNATURE = re.compile(r"x-(amz|goog)-signature|signature|sig", re.IGNORECASE)
_PART_OF_SIGNATURE = re.compile(
    r"x-(amz|goog)-.*|awsaccesskeyid|googleaccessid|key-pair-id|signature|sig|policy|expires", re.IGNORECASE
)
"""Parts of a query that sign a request (Amazon, CloudFront, Google, Azure), if one of them is a ``_SIGNATURE``."""
_HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(:[0-9]*)?")
_LONGEST_PLAIN = 20
"""Characters of a query's value that may be shown. Longer ones may be signatures under a name that we do not know."""
_SHORTEST_KEY = 8
"""Characters from which a key is searched for in messages: a shorter one may be part of any word."""
_SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")


def is_url(path: object) -> bool:
    """Whether ``path`` is a text of the form ``scheme://…``. What is not may be a path of this machine."""
    return isinstance(path, str) and _URL.match(path) is not None


def scheme_of(url: str) -> str:
    """The scheme in lower case, such as ``s3``; empty for a path."""
    found = _URL.match(url)
    return found[1].lower() if found else ""


def without_secrets(url: str) -> str:
    """``url`` without password and signature; what is not a URL stays as it is.

    The user of ``sftp`` stays, any other is removed, since it may be a token. Parts of the query are removed whose
    names are those of secrets, or whose values are long. Objects of ``s3``, ``gs`` and ``sftp`` have no query: there
    ``?`` is a character of the name.
    """
    found = _URL.match(url)
    if found is None:
        return url
    scheme, rest = found[1].lower(), url[found.end() :]
    host, slash, path = rest.partition("/")
    if "@" in path and not _HOST.fullmatch(host.rpartition("@")[2]):  # a password with a slash in it
        host, slash, path = path.rpartition("@")[2].partition("/")
    user, at, host = host.rpartition("@")
    if at and scheme == "sftp" and (name := user.partition(":")[0]):
        host = f"{name}@{host}"
    rest = host + slash + path
    if scheme in ("http", "https"):
        rest = _without_signature(rest.partition("#")[0])
    return f"{found[1]}://{rest}"


def _without_signature(rest: str) -> str:
    path, mark, query = rest.partition("?")
    parts = [part for part in re.split("[&;]", query) if part and not _is_secret(*part.partition("=")[::2])]
    return path + mark + "&".join(parts) if parts else path


def _is_secret(name: str, value: str) -> bool:
    return _SECRET_NAME.search(unquote(name)) is not None or len(value or name) > _LONGEST_PLAIN


def identity(url: str) -> str:
    """What is the same for each signature of a URL, and differs for each object; it may hold secrets.

    Only what surely signs a request is left out: ``?key=a`` and ``?key=b`` may be two recordings.
    """
    if scheme_of(url) not in ("http", "https"):
        return without_secrets(url)
    path, _, query = url.partition("#")[0].partition("?")
    parts = [part for part in re.split("[&;]", query) if part]
    names = [unquote(part.partition("=")[0]) for part in parts]
    if any(map(_SIGNATURE.fullmatch, names)):
        parts = [part for part, name in zip(parts, names, strict=True) if not _PART_OF_SIGNATURE.fullmatch(name)]
    return "?".join(filter(None, (without_secrets(path), "&".join(parts))))


def real_place(path: Any) -> str:
    """What distinguishes files, without secrets: the path behind all links, or the URL.

    Where a part of a URL's query is hidden, a checksum stands for it.
    """
    if not is_url(path):
        return str(os.path.realpath(path))
    whole = identity(path)
    shown = without_secrets(whole)
    return shown if shown == whole else f"{shown}#{hashlib.sha256(whole.encode()).hexdigest()[:16]}"


def clean_text(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """A message of a library without the secrets that it may quote: those of URLs, and keys of the environment."""
    text = _IN_TEXT.sub(lambda found: without_secrets(found[0]), text)
    for name in _SECRET_VARIABLES:
        if len(value := environment.get(name, "")) >= _SHORTEST_KEY:
            text = text.replace(value, f"({name})")
    return text


def shown_place(path: Any) -> str:
    """Where a file is, for a file that we write: a URL without its secrets, or an absolute path."""
    return without_secrets(path) if is_url(path) else os.path.abspath(path)


def join_url(folder: str, path: str) -> str:
    """``path``, relative to the URL ``folder``, as a URL; ``..`` stays below the host or bucket.

    The password of ``folder`` is kept, its query is not: a signature is that of one object.
    """
    found = _URL.match(folder)
    assert found is not None, folder
    host, _, base = folder[found.end() :].partition("/")
    if found[1].lower() in ("http", "https"):
        base = re.split("[?#]", base)[0]
    joined = posixpath.normpath(posixpath.join("/", base, path)).lstrip("/")
    return f"{found[0]}{host}/{joined}"


def parent_url(url: str) -> str:
    """The URL of the folder that holds ``url``; a query stays behind."""
    found = _URL.match(url)
    assert found is not None, url
    rest = re.split("[?#]", url[found.end() :])[0] if found[1].lower() in ("http", "https") else url[found.end() :]
    folder = rest.rpartition("/")[0]
    return f"{found[0]}{folder or rest}"


def url_name(url: str) -> str:
    """The last part of the path, such as ``a.wav``; the host or bucket where there is none."""
    shown = urlsplit(url).path if scheme_of(url) in ("http", "https") else _URL.sub("", url)
    if scheme_of(url) in ("http", "https"):
        shown = unquote(shown)  # before it is cut: %2F must not lead out of a folder
    name = PurePosixPath(shown.rstrip("/") or urlsplit(url).hostname or "input").name
    return name if name not in ("", ".", "..") else "input"
