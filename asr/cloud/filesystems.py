"""Connections to where URLs point: one for each service and process, made when the first URL of its kind comes.

Credentials come from the usual environment: ``AWS_*`` and ``~/.aws``, ``GOOGLE_APPLICATION_CREDENTIALS`` and gcloud,
``~/.netrc``, ``~/.ssh`` and the SSH agent. fsspec's own variables (``FSSPEC_S3_ANON=true``,
``FSSPEC_S3_ENDPOINT_URL``) are read too. The libraries' own retries are off (gcsfs's cannot be), since
``asr.cloud.retries`` does that.
"""

from __future__ import annotations

import importlib
import logging
import os
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from asr.cloud.addresses import SCHEMES, scheme_of, without_secrets
from asr.cloud.retries import as_cloud_error, is_transient
from asr.errors import CloudError

CONNECT_TIMEOUT_S = 20
READ_TIMEOUT_S = 60
"""Seconds without a byte after which a request is given up and made again."""
CONNECTIONS = 64
"""Requests to one service at a time."""
SFTP_CHANNELS = 8
"""Channels of one SSH connection; OpenSSH's server allows 10."""

_BUCKETS = ("s3", "s3a", "gs", "gcs")

_lock = threading.Lock()
_made: dict[tuple[str, ...], Any] = {}


@dataclass(frozen=True)
class Location:
    """Where a URL points: its service, the path there, and the URL itself."""

    service: Any
    """An fsspec file system, or an ``SftpServer``."""
    path: str
    url: str

    @property
    def scheme(self) -> str:
        return scheme_of(self.url)


def locate(url: str) -> Location:
    """Where ``url`` points. Connects to an SFTP server; other services are reached when something is read.

    Raises ``CloudError`` for an unknown scheme, for a package that is not installed, with the extra that brings it, and
    for a server that cannot be reached.
    """
    scheme = scheme_of(url)
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in ("s3", "gs", "https", "sftp", "memory"))
        advice = "give the path alone" if scheme == "file" else "copy the files to one of these, or to this machine"
        raise CloudError(f"{without_secrets(url)}: expected one of {known}, got {scheme or 'no scheme'}://; {advice}")
    if scheme in _BUCKETS and not url.partition("://")[2].partition("/")[0]:
        raise CloudError(f"{without_secrets(url)}: expected the name of a bucket, as in {scheme}://bucket/a.wav")
    _require(scheme, url)
    try:
        if scheme == "sftp":
            return Location(_sftp(url), unquote(urlsplit(url).path) or "/", url)
        service = _service(scheme)
        return Location(service, url if scheme in ("http", "https") else service._strip_protocol(url), url)
    except CloudError:
        raise
    except Exception as error:
        raise as_cloud_error(error, url) from None


def forget_connections() -> None:
    """Close what is open; the next URL connects anew. For tests, and for changed credentials."""
    with _lock:
        for service in _made.values():
            if isinstance(service, SftpServer):
                service.close()
        _made.clear()


def _require(scheme: str, url: str) -> None:
    for name in ("fsspec", SCHEMES[scheme]):
        try:
            if name:
                importlib.import_module(name)
        except ImportError as error:
            raise CloudError(
                f"{without_secrets(url)}: {scheme}:// needs the package {name} ({error}): "
                "pip install 'recurrent-asr[cloud]'"
            ) from error


def _service(scheme: str) -> Any:
    """The fsspec file system of a scheme."""
    import fsspec

    name = {"s3a": "s3", "gcs": "gs", "https": "http"}.get(scheme, scheme)
    with _lock:
        if (name,) not in _made:
            options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
            if name == "s3":
                options |= {"config_kwargs": _s3_settings(), "default_cache_type": "none"}
            elif name == "http":
                options["client_kwargs"] = {"trust_env": True, "timeout": _http_timeout()}
            elif name == "memory":
                options = {}
            if name == "gs":  # it logs each error with its traceback; our message names the last one
                logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
            if name == "gs" and os.environ.get("STORAGE_EMULATOR_HOST"):
                service = _google_emulator(options)
            else:
                service = fsspec.filesystem(name, **options)
            if name in ("s3", "gs"):
                service.retries = 1
            _made[(name,)] = service
        return _made[(name,)]


def _google_emulator(options: dict[str, Any]) -> Any:
    """The service of an emulator, as Google's own libraries do: without credentials, and without gRPC."""
    from gcsfs.core import GCSFileSystem

    return GCSFileSystem(token="anon", **options)


def _s3_settings() -> dict[str, Any]:
    return {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": READ_TIMEOUT_S,
        "max_pool_connections": CONNECTIONS,
        "retries": {"mode": "standard", "total_max_attempts": 1},
    }


def _http_timeout() -> Any:
    import aiohttp

    return aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S)


def _sftp(url: str) -> SftpServer:
    parts = urlsplit(url)
    key = ("sftp", parts.netloc)
    with _lock:
        if key not in _made:
            _made[key] = SftpServer(
                parts.hostname or "", parts.port, unquote(parts.username or ""), unquote(parts.password or "")
            )
        found: SftpServer = _made[key]
        return found


class SftpServer:
    """An SSH connection with several SFTP channels. paramiko's clients are not for several threads at once.

    Host, port, user and key files come from the URL, else from ``~/.ssh/config``. The server's key must be in
    ``~/.ssh/known_hosts``. Connects when a channel is wanted, and again after the connection broke.
    """

    def __init__(self, host: str, port: int | None, user: str, password: str) -> None:
        self._host, self._port, self._user, self._password = host, port, user, password
        self._client: Any = None
        self._lock = threading.Lock()
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()
        for _ in range(SFTP_CHANNELS):
            self._idle.put(None)

    @contextmanager
    def channel(self) -> Iterator[Any]:
        """A ``paramiko.SFTPClient`` for the block. Raises errors of paramiko and ``OSError``."""
        channel = self._idle.get()
        try:
            if channel is None or channel.get_channel().closed:
                channel = self._open()
            yield channel
        except Exception as error:
            if is_transient(error) and channel is not None:
                channel.close()
                channel = None
            raise
        finally:
            self._idle.put(channel)

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _open(self) -> Any:
        with self._lock:
            transport = self._client.get_transport() if self._client is not None else None
            if transport is None or not transport.is_active():
                self._client = self._connected()
            channel = self._client.open_sftp()
            channel.get_channel().settimeout(READ_TIMEOUT_S)
            return channel

    def _connected(self) -> Any:
        import paramiko

        settings: dict[str, Any] = {}
        config = os.path.expanduser("~/.ssh/config")
        if os.path.isfile(config):
            settings = dict(paramiko.SSHConfig.from_path(config).lookup(self._host))
        client = paramiko.SSHClient()
        client.load_system_host_keys(settings.get("userknownhostsfile"))
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        client.connect(
            settings.get("hostname", self._host),
            port=self._port or int(settings.get("port", 22)),
            username=self._user or settings.get("user"),
            password=self._password or None,
            key_filename=settings.get("identityfile"),
            timeout=CONNECT_TIMEOUT_S,
            banner_timeout=READ_TIMEOUT_S,
            auth_timeout=READ_TIMEOUT_S,
        )
        return client
